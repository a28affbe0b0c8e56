"""Secrets in every form that is found in logs, and what resembles them and is none."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import flatten
from qdet.masking import MASK, is_secret_name, mask
from tests.support.recipes import FILES, JOBS, REPO

LETTERS = "q7Zx9KbTn2Lm5VwR8sYc3Df6Gh1Jp4Ae0UoIiQdW"
"""Letters that no word below contains."""


def secret(length: int) -> str:
    return (LETTERS * 8)[:length]


HEX = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
TOKENS = {
    "AWS access key": "AKIA" + "Q7ZX9KBTN2LM5VWR",
    "AWS session key": "ASIA" + "Q7ZX9KBTN2LM5VWR",
    "Google API key": "AIza" + secret(35),
    "Google OAuth": "ya29." + secret(30),
    "GitHub": "ghp_" + secret(36),
    "GitHub, fine-grained": "github_pat_" + secret(40),
    "GitLab": "glpat-" + secret(20),
    "Hugging Face": "hf_" + secret(34),
    "npm": "npm_" + secret(36),
    "PyPI": "pypi-" + secret(60),
    "OpenAI": "sk-" + secret(48),
    "Stripe": "sk_live_" + secret(24),
    "Slack": "xoxb-" + secret(30),
    "SendGrid": f"SG.{secret(22)}.{secret(40)}",
    "Square": "sq0csp-" + secret(43),
    "Twilio": "SK" + HEX,
    "Mailchimp": HEX + "-us12",
    "Telegram": "123456789:" + secret(35),
    "Discord": f"M{secret(23)}.{secret(6)}.{secret(27)}",
    "JWT": f"eyJ{secret(20)}.{secret(20)}.{secret(20)}",
}
VARIABLES = [
    *("PGPASSWORD", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING", "DB_PASS", "GH_PAT", "MYSQL_PWD"),
    *("FSSPEC_S3_KEY", "OPENAI_KEY", "SSH_PASSPHRASE", "SECRETKEY", "ACCESSTOKEN", "SLACK_WEBHOOK"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "HF_TOKEN"),
    *("RAY_AUTH_TOKEN", "DOCKER_AUTH", "SMTP_PASSWD"),
]
HIDDEN = secret(12)
TEXTS = [
    f"postgresql://me:{HIDDEN}@db/mlflow",
    f"postgresql://me:p@{HIDDEN}/x@db.example:5432/mlflow",
    f"https://{HIDDEN}@git.example/me/x.git",
    f"https://x/y?key={HIDDEN}&n=1",
    f"https://x/y?n=1&secret_key={HIDDEN}",
    f"https://x/y?access_key={HIDDEN}",
    f"https://x/y?auth={HIDDEN}",
    f"https://x/y?jwt={HIDDEN}#there",
    f"https://x/y?X-Amz-Signature={HIDDEN}",
    f"https://x/y?X-Amz-Credential={HIDDEN}",
    f"https://x/y?sv=2024&sig={HIDDEN}",
    f"https://hooks.slack.com/services/{HIDDEN}",
    f"Authorization: Bearer {HIDDEN}",
    f"Authorization: Basic {base64.b64encode(HIDDEN.encode()).decode()}",
    f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={secret(40)}==;EndpointSuffix=x",
    f"train --api-key {HIDDEN} --steps 3",
    f"train --api-key={HIDDEN}",
    f"password={HIDDEN}",
    f"password: {HIDDEN}",
    f'{{"password": "{HIDDEN}", "n": 1}}',
    f"{{'db_pass': '{HIDDEN}'}}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{secret(64)}\n{secret(64)}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{secret(64)}\ncut off",
    *(f"export {name}={HIDDEN}" for name in VARIABLES),
    *(f"see {token} there" for token in TOKENS.values()),
]
PLAIN = [
    "s3://bucket/path:with/colons@8",
    "https://host:8080/a@b",
    "http://127.0.0.1:5000/#/models:/detector@champion",
    "git clone https://git@github.com/me/x.git",
    "ssh://git@host/x",
    "password=None",
    "def login(password: str, token=None) -> bool:",
    "token=os.environ['HF_TOKEN']",
    "reads 3,000 tokens per second, of 256 channels",
    "the secret of good data is a plan",
    "detector.key_dim=32",
    "sort_key=area",
    "images_per_second=12.5 loss=0.4",
    "sha256:9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "models:/detector@champion",
    "AdaMixer: A Fast-Converging Query-Based Object Detector",
    "https://x/y?page=2&sort=key#there",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_masked_wherever_it_stands(text: str):
    masked = mask(text)
    assert MASK in masked
    assert HIDDEN not in masked
    assert not [token for token in TOKENS.values() if token in masked]
    assert secret(20) not in masked
    assert mask(masked) == masked


@pytest.mark.parametrize("text", PLAIN)
def test_what_resembles_a_secret_is_left_alone(text: str):
    assert mask(text) == text


@pytest.mark.parametrize("name", VARIABLES)
def test_the_value_of_a_secret_variable_is_masked_everywhere(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "a-plain-value")
    assert mask("it said a-plain-value!") == f"it said {MASK}!"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_files_and_their_settings_hold_no_secret(path: Path):
    assert mask(path.read_text()) == path.read_text()
    settings = flatten(FILES[path.stem].job)
    assert not [name for name in settings if is_secret_name(name)]
    assert all(mask(str(value), key=name) == str(value) for name, value in settings.items())


@pytest.mark.parametrize("page", sorted((REPO / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_docs_hold_no_secret(page: Path):
    text = page.read_text()
    changed = [line for line in text.splitlines() if mask(line) != line]
    assert not [line for line in changed if "SERVE_TOKEN" not in line]


@given(st.text(max_size=300))
def test_any_text_can_be_masked_and_once_is_enough(text: str):
    assert mask(mask(text)) == mask(text)
