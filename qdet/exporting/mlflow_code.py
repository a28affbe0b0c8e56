"""What MLflow runs to load a detector: "models from code", so that nothing is unpickled.

`qdet.exporting.mlflow_model` copies this file into the model's folder.
"""

from mlflow.models import set_model

from qdet.exporting.pyfunc import DetectorModel

set_model(DetectorModel())
