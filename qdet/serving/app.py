"""The web application: routes, their documentation, and errors in plain words."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from qdet.errors import did_you_mean
from qdet.serving import replies
from qdet.serving.access import CountRequests, RequireToken
from qdet.serving.documentation import IMAGE_BODY, document, error_replies
from qdet.serving.metrics import CONTENT_TYPE, write_text
from qdet.serving.refusal import Refusal, refuse
from qdet.serving.service import Service
from qdet.serving.uploads import read_images

PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing from elsewhere."""
PARAMETERS = ("score", "max", "size")
"""What `/predict` takes in the query."""
PATHS = frozenset({"/", "/predict", "/classes", "/health", "/metrics", "/docs", "/openapi.json"})
Scrape = Callable[[], Awaitable[bytes]]
"""Returns the metrics of all replicas as text."""

router = APIRouter()


def create_app(service: Service, scrape: Scrape | None = None) -> FastAPI:
    """Return the application that answers with this service.

    Args:
        service: The model.
        scrape: What `/metrics` returns; by default the numbers of this service alone.
    """
    app = FastAPI(
        title=f"qdet: {service.model.description.name}",
        description='Object detection in images. Errors are `{"error": "why"}`.',
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.scrape = service, scrape or _own_metrics(service)
    app.include_router(router)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameter)
    app.add_exception_handler(Exception, _on_bug)
    if service.settings.token is not None:
        app.add_middleware(RequireToken, token=service.settings.token)
    app.add_middleware(CountRequests, metrics=service.metrics, paths=PATHS)
    document(app, service)
    return app


@router.post(
    "/predict",
    summary="Detect objects in one image or several",
    response_model=replies.ImageReply | list[replies.ImageReply],
    responses=error_replies(400, 401, 408, 413, 415, 422, 503),
    response_description="What was found; for a form with several files a list in their order.",
    openapi_extra=IMAGE_BODY,
)
async def predict(
    request: Request,
    score: Annotated[
        float | None, Query(ge=0, le=1, allow_inf_nan=False, description="Least score of a detection.")
    ] = None,
    max: Annotated[int | None, Query(ge=1, description="Most detections per image, the best ones.")] = None,
    size: Annotated[
        int | None,
        Query(ge=32, description="Short side in pixels that images are resized to, instead of the model's."),
    ] = None,
) -> Response:
    """Send an image as the body, or several as files of a form (multipart/form-data)."""
    service: Service = request.app.state.service
    settings = service.settings
    _check_names(request.query_params)
    _check_most("max", max, settings.limits.max_detections)
    _check_most("size", size, settings.limits.max_size)
    with service.admit():
        images = await read_images(request, settings.limits)
        found = await service.predict(images, size=size)
    least, most = settings.score if score is None else score, max or settings.detections
    model = replies.model_info(service.model.description)
    content = [replies.encode_image(one.above(least)[:most], model) for one in found]
    return _json(content if len(content) > 1 else content[0])


@router.get(
    "/classes",
    summary="List the classes",
    response_model=list[replies.ClassInfo],
    responses=error_replies(401),
)
async def classes(request: Request) -> Response:
    """Names of the labels, and the dataset's own ids."""
    return _json(replies.class_list(request.app.state.service.model.classes))


@router.get(
    "/health",
    summary="Ask whether the model answers",
    response_model=replies.HealthReply,
    responses=error_replies(503),
)
async def health(request: Request) -> Response:
    """200 if the model computed a batch in the last seconds or does so now. Needs no token."""
    await request.app.state.service.check_health()
    return _json({"status": "ok"})


@router.get("/metrics", summary="Counts and times for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus' text format, summed over all replicas."""
    return Response(await request.app.state.scrape(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/", include_in_schema=False)
async def home() -> Response:
    """Lead to the documentation."""
    return RedirectResponse("docs")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the documentation, which needs nothing from the internet."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": POLICY})


def _own_metrics(service: Service) -> Scrape:
    async def scrape() -> bytes:
        return write_text(service.metrics.collect())

    return scrape


def _check_names(given: QueryParams) -> None:
    """Refuse parameters that would be ignored: unknown ones, and all but one of the same name."""
    names = [name for name, _ in given.multi_items()]
    for name in names:
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise Refusal(
                422, f"{name[:100]} is no parameter; there are {known}.{did_you_mean(name, PARAMETERS)}"
            )
        if names.count(name) > 1:
            raise Refusal(422, f"{name} is given {names.count(name)} times; give it once")


def _check_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise Refusal(422, f"{name} must be at most {most}, got {value}")


def _json(content: Any) -> Response:
    return Response(replies.encode(content), media_type="application/json")


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Say in plain words what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    reason = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        reason = "there is no such path; /docs lists them"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        reason = f"{request.method} is not for this path; /docs lists what is"
    return refuse(error.status_code, reason, error.headers)


async def _on_bad_parameter(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Input ").removeprefix("Value ")
    return refuse(422, f"{first['loc'][-1]} {message}, got {str(first.get('input'))[:100]}")


async def _on_bug(_: Request, __: Exception) -> Response:
    return refuse(500, "the service failed; its log says why")
