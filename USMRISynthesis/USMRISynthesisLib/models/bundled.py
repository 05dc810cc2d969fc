"""The SHA-256 of every file of the models that come with the product, by model and file.

Written by `python -m USMRISynthesisLib.training.common.bundled_list`; a test compares it with model_weights/. A file
whose hash is not listed here is a foreign one, wherever it lies.
"""

from __future__ import annotations

FILES: dict[str, dict[str, str]] = {
    "alignment": {
        "model.pt": "a2467318e70adea000815b7250abe206f891843c56c0b014270d4fc4af545056",
        "weights.safetensors": "169fc5e9ed5fa16ec0216d9a4eb5050617584bd909c4a7087dfb213080dd5db8",
    },
    "content": {
        "model.pt": "9db39c70efe15fc35f1943c679c8b5e75fc406a1264123a2fe3f617600c4deca",
        "weights.safetensors": "2c44ad16b89ba8b22b3a7bf5749f5cba76be92a4aec6499a3b000d751adfc60a",
    },
    "default": {
        "model.pt": "073fab7400ac10e5231c132d06bf999184fcf96cadabab3b93491648513897ce",
        "support.pt": "6d733ed290befe602692935d350a8fa331e9e7ebf77dea1f6746a3299d86667b",
        "support.safetensors": "7b548646a216f03078feb222685b7e05f5d23d505b97db2ecf8e3521cc2f82fd",
        "weights.safetensors": "8e3e6c701ba1c6e1cfc06f529ab0cf2bd19f60bfca2aad9f842aaf2935c26aa5",
    },
    "frames": {
        "model.pt": "1fd16f775b56eedf3484e38f0c4fa7fcd81374f61475c5b9b8a984e447bc6f5b",
        "weights.safetensors": "d10e94de14feb2bef18597251cdbfc332723194b56092e4216dbc167203ee1b8",
    },
    "paper": {
        "model.pt": "b09939faf720817a6df72cf7a366d3a693669575b0ce5feeef57475b1ccb9725",
        "weights.safetensors": "d9951018b32d19691cdc3a660ccb531d6271ef5a90a393887fc771b820c1eb7b",
    },
    "spacing": {
        "model.pt": "a7b752a14ad42f8a611854bd20b98a2922a8d59a6254be812f8e82d24ce8ad57",
        "weights.safetensors": "13c83fb88b6b6be3b7189c33d0eb99ad029dab774a1106456cbe24ca197f932c",
    },
}
