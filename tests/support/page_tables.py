"""How each command of README and docs is run by tests/docs/test_blocks.py, or why it is not."""

SHORT = "--demo --train.workers 2 --train.steps 2 --train.batch-size 4 --eval.batch-size 4"
STANDS_FOR = {
    r"^qdet (predict|evaluate|visualize|export|serve) outputs/RUN": r"qdet \1 demo",
    r"--compare outputs/OTHER_RUN": "--compare demo",
    r"--from outputs/RUN": "--from demo",
    r"^ray job submit --working-dir . -- (python \S+) .*": rf"ray job submit --working-dir . -- \1 {SHORT}",
    r"^(ray job submit jobs/\S+)$": rf"\1 -- {SHORT}",
    r"^(qdet submit jobs/\S+ --) .*": rf"\1 {SHORT}",
    r"^qdet demo$": "mkdir fresh && cd fresh && qdet demo -- --train.steps 2",
    r"--store.resume RUN": f"{SHORT} --store.resume swin_demo --train.steps 4",
    r"\bMODEL IMAGES\b": "demo street.jpg",
    r"outputs/RUN": "outputs/tiny",
    r"photos --out data/photos --split val": r"photos --out data/photos --val-share 0.3 --split val",
    r"/data/coco": "coco",
    r"--start 100 ": "--start 1 ",  # the pages' dataset is larger
    r"^(qdet train --data .*-- .*)": r"\1 --train.steps 2",
    r"^(qdet train --data [^-]*(?:--from \S+)?)$": r"\1 -- --train.steps 2",
    r"^(python jobs/\S+ --demo.*(?:--sweep|--table|--track).*)": r"\1 --train.steps 2",
    r"--minutes 10": "--minutes 0.1",
    r"--train.workers 8$": f"{SHORT} --store.run swin_demo",
    r"--nproc-per-node 8 (\S+)": rf"--nproc-per-node 2 \1 {SHORT}",
    r"(--workers) 8": r"\1 2",
    r"(r101_dc5 .*--dry-run)": r"\1 --train.batch-size 8 --train.workers 8",  # there are 48 images
}
"""What a command has that a reader replaces, or that takes too long; and what the tests have there."""

QUICK = """
python -m data_prep.coco_to_shards --coco /data/coco --split train2017 --out data/coco/train2017
python -m data_prep.coco_to_shards --coco /data/coco --split val2017 --out data/coco/val2017
python -m data_prep.inspect data/cells/train
python -m data_prep.inspect data/cells/train data/cells/val data/cells/test --check
python -m data_prep.inspect data/coco/train2017
python -m data_prep.inspect data/coco/train2017 data/coco/val2017 --check
python -m data_prep.verify data/coco/train2017
python jobs/adamixer_swin.py --dry-run
python jobs/adamixer_swin.py --dry-run --nodes 2 --gpus-per-node 8 --images-per-s 20 --price 2.5
python jobs/detr_r50.py --help
python jobs/detr_r50.py --variant r101_dc5 --optim.lr 5e-5 --dry-run
qdet certify
qdet checkpoint outputs/RUN
qdet checkpoint outputs/RUN --export model.safetensors
qdet evaluate outputs/RUN --data data/demo/shards/val
qdet evaluate outputs/RUN --data data/demo/shards/val --html report.html
qdet evaluate outputs/RUN --data data/demo/shards/val --json
qdet export outputs/RUN --to model.safetensors
qdet order --data data/coco --split train2017 --seed 0 --epoch 3 --global-batch 16 --world 8 --start 100 \
--steps 2
qdet predict demo photo.png --to found
qdet predict outputs/RUN 'photos/**/*.jpg' --to drawn --score 0.5
qdet predict outputs/RUN 'photos/**/*.jpg' clip.mp4 --to drawn --json results.json
qdet predict outputs/RUN --show-classes
qdet predict outputs/RUN clip.mp4 --to drawn
qdet predict outputs/RUN data/coco/val2017 --json results.json
qdet predict outputs/RUN street.jpg
qdet prepare cells --out data/cells
qdet prepare photos --out data/photos --split val
qdet prepare photos --out data/photos --val more_photos
qdet prepare photos --out data/photos --val-share 0.1
qdet runs
qdet runs --json
qdet show otter
qdet visualize --job jobs/adamixer_swin.py -- --demo
qdet visualize MODEL IMAGES
qdet visualize outputs/RUN street.jpg --to looks
"""
"""Run in this process, in seconds."""

SLOW = """
qdet evaluate outputs/RUN --data data/demo/shards/val --compare outputs/OTHER_RUN
qdet evaluate outputs/RUN --html report.html
eval '$(qdet completion bash)'
qdet evaluate outputs/RUN --data data/demo/shards/val --tta
qdet evaluate outputs/RUN --data data/demo/shards/val --size 160
qdet export outputs/RUN --to model.onnx
qdet export outputs/RUN --to model.pt2
qdet train --data cells
qdet train --data cells --from outputs/RUN
qdet train --data cells -- --dry-run
qdet train --data cells -- --train.epochs 30 --optim.lr 5e-4 --data.augment.photometric
qdet visualize MODEL IMAGES --what stages --queries 4
qdet zoo
torchrun --nproc-per-node 8 jobs/adamixer_swin.py
"""

ON_RAY = """
cluster/local.sh up
eval '$(cluster/local.sh env)'
qdet doctor
ray job submit jobs/adamixer_swin.py
ray job submit --working-dir . -- python jobs/adamixer_swin.py --train.epochs 12
qdet submit jobs/adamixer_swin.py -- --train.epochs 12
python jobs/adamixer_swin.py --train.workers 8
python jobs/adamixer_swin.py --store.resume RUN
python jobs/adamixer_swin.py --demo --sweep --sweep.trials 3
python jobs/adamixer_r50.py --demo --table mixing
qdet evaluate outputs/RUN --data data/coco/val --workers 8
cluster/local.sh down
qdet demo
"""
"""Run in this order in one shell, on a head of their own."""

SERVERS = (
    "qdet ui",
    "qdet ui --sweeps",
    "qdet serve outputs/RUN",
)
"""Run until their address answers."""

SENT = """
curl --data-binary @street.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/predict?score=0.5'
curl -F file=@one.jpg -F file=@two.png http://127.0.0.1:8000/predict
"""
"""Sent to `qdet serve`."""

INDEX = "installs from a package index"
TESTS = "this is the test run itself, or the checks beside it"
NETWORK = "needs the network"
BUCKET = "needs a bucket on the network; tests/storage has one of its own"
CLUSTER = "needs a cluster; tests/cluster/test_slurm.py has one of its own"
DAYS = "trains a published recipe: days on GPUs"
REGISTRY = "needs a run that MLflow has; tests/tracking/test_registry.py makes one"
TOOL = "another project's program that is not installed here"
ELSEWHERE = {
    "make setup": INDEX,
    "pip install .": INDEX,
    "pip install --require-hashes -r requirements-cuda.lock": INDEX,
    "pip install --no-deps --require-hashes -r requirements.lock": INDEX,
    "pip install --no-deps -e .": INDEX,
    "make demo": "sets up .venv from a package index, then is `qdet demo`",
    "make check": TESTS,
    "make format": TESTS,
    "make test": TESTS,
    "make test-slow": TESTS,
    "make test-ci-slow": TESTS,
    "python -m data_prep.download --coco 2017 --to /data/coco": NETWORK,
    "python -m data_prep.coco_to_shards --images DIR --annotations FILE --split train "
    "--out s3://bucket/mine/train --ray": BUCKET,
    "qdet serve s3://bucket/RUN/step_090000 --replicas 1:8": BUCKET,
    "docker build -f cluster/Dockerfile -t ghcr.io/me/qdet:0.1.0 .": "needs Docker",
    "sed 's|REGISTRY|ghcr.io/me|' cluster/kuberay-rayjob.yaml": "is piped to kubectl: needs a cluster",
    "sbatch --nodes 2 --gpus-per-node 8 cluster/slurm.sh jobs/adamixer_swin.py --train.workers 16": CLUSTER,
    "sbatch --array 0-4 --gpus-per-node 8 cluster/slurm.sh jobs/adamixer_swin.py --train.seed TASK "
    "--train.workers 8": CLUSTER,
    "python jobs/detr_r50.py": DAYS,
    "python jobs/detr_r50.py --variant r101_dc5": DAYS,
    "python jobs/adamixer_r50.py --table mixing": DAYS,
    "python jobs/dino_r50.py": DAYS,
    "python jobs/dino_r50.py --detector.denoising.kind none": DAYS,
    "python jobs/dino_r50.py --detector.denoising.queries 400": DAYS,
    "python jobs/dn_detr_r50.py": DAYS,
    "python jobs/conditional_detr_r50.py --variant groups_12ep": DAYS,
    "python jobs/deformable_detr_r50_two_stage.py --variant hybrid_12ep": DAYS,
    "python jobs/dab_detr_r50.py --detector.one-to-many.kind groups": DAYS,
    "python jobs/adamixer_swin.py --sweep": DAYS,
    "python jobs/adamixer_swin.py --sweep --store.run night": DAYS,
    "python jobs/adamixer_swin.py --sweep --sweep.trials 8 --sweep.concurrent 4": DAYS,
    "python jobs/adamixer_swin.py --demo --sweep --store.run night --sweep.trials 12 --sweep.concurrent 3 "
    "--train.workers 1 --train.zero 0 --train.steps 180 --train.checkpoint-every 10": "takes 11 minutes",
    "qdet convert checkpoint.pth --to weights/detr_r50": "needs an authors' file; tests/test_convert.py",
    "python jobs/detr_r50.py --store.init-from weights/detr_r50": DAYS,
    "python jobs/detr_r50.py --store.init-from RUN --train.freeze backbone encoder": DAYS,
    "qdet train --data cells --job qdet:detr_r50 -- --demo": "downloads weights of its backbone",
    "qdet export outputs/RUN --to folder": "needs a detector that transformers has; tests/exporting",
    "trtexec --onnx=model.onnx --saveEngine=model.engine "
    "--minShapes=images:1x3x320x320,sizes_hw:1x2,original_hw:1x2 "
    "--optShapes=images:1x3x800x1216,sizes_hw:1x2,original_hw:1x2 "
    "--maxShapes=images:8x3x1344x1344,sizes_hw:8x2,original_hw:8x2": "needs a GPU and TensorRT",
    "python jobs/adamixer_swin.py --demo --track.loggers tensorboard wandb": "logs to a paid service",
    "tensorboard --logdir outputs": TOOL,
    "qdet register outputs/RUN --name shapes --alias champion": REGISTRY,
    "qdet predict models:/shapes@champion photo.jpg --to predictions": REGISTRY,
    "qdet evaluate outputs/RUN --data data/demo/shards/val --mlflow RUN_ID": REGISTRY,
    "qdet serve models:/detector@champion --replicas 2": REGISTRY,
    "qdet sync-tracking": "needs points that wait; tests/tracking",
    "qdet doctor --store /shared/outputs --data data/coco/train2017 --ports 5000": "tests/doctor runs it",
    "qdet certify adamixer_r50:mixing": "trains for hours",
    "qdet certify adamixer_r50:mixing --show": "shows what the line before has trained",
    "qdet reproduce RUN": "tests/launch/test_reproduce.py reproduces a run of its own",
    "qdet reproduce RUN --steps 100 --train /mnt/coco/train2017 --val /mnt/coco/val2017": "the same",
    "qdet chaos --minutes 10": "tests/launch/test_chaos.py injects every fault",
    "qdet chaos --minutes 10 --faults worker driver -- --train.zero 3": "tests/launch/test_chaos.py does",
    "python -m benchmarks.serving outputs/RUN --images data/demo/coco/val --batch 16 --concurrency 1 32 64 "
    "--count 250": "measures for minutes what an idle machine does",
    "qdet visualize --job jobs/adamixer_swin.py --step 7 --count 4 -- --demo --data.no-by-size "
    "--data.augment.sizes 88 104 128 --data.augment.photometric --data.augment.mosaic 0.3 "
    "--data.augment.mosaic-size 64 --data.augment.mixup 0.2": "needs more images than are rendered here",
}
"""Not run, and why."""
