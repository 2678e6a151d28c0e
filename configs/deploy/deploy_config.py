# Deployment of CenterPoint: every key, its default and what it may be is in docs/configuration.md.
# What is left out takes its default; an unknown key is an error.

# Single source of truth for the PyTorch model.
checkpoint_path = "models/zoo/centerpoint_t4_demo/checkpoint.pth"

# Names for devices; the rest of this file may say 'cpu' and 'cuda'.
devices = dict(cpu="cpu", cuda="cuda:0")

export = dict(
    mode="both",  # 'onnx', 'trt', 'both', 'none'
    work_dir="work_dirs/centerpoint_deployment",
    onnx_path=None,  # folder with the ONNX files; required when mode='trt'
)

onnx_config = dict(
    opset_version=17,
    do_constant_folding=True,
    keep_initializers_as_inputs=False,
    simplify=False,
)

evaluation = dict(
    enabled=True,
    num_samples=30,  # -1: all frames
    verbose=True,
    decode="both",  # 'training', 'autoware', 'both'
    backends=dict(
        pytorch=dict(enabled=True, device="auto"),
        onnx=dict(enabled=True, device="auto"),
        tensorrt=dict(enabled=True, device="cuda"),
    ),
)

backend_config = dict(
    common_config=dict(
        precision_policy="auto",  # 'auto', 'fp16', 'fp32_tf32', 'strongly_typed', 'int8'
        max_workspace_size=2 << 30,  # bytes
    ),
    # Optimization profiles follow from the model config. To narrow them for one model:
    # model_inputs=[dict(input_shapes=dict(
    #     input_features=dict(min_shape=[1, 32, 11], opt_shape=[8000, 32, 11], max_shape=[32000, 32, 11]),
    # ))],
)

verification = dict(
    enabled=True,
    num_verify_samples=5,
    devices=devices,
    scenarios=dict(
        both=[
            dict(ref_backend="pytorch", ref_device="cpu", test_backend="onnx", test_device="cpu"),
            dict(ref_backend="onnx", ref_device="cpu", test_backend="tensorrt", test_device="cuda"),
        ],
        onnx=[dict(ref_backend="pytorch", ref_device="cpu", test_backend="onnx", test_device="cpu")],
        trt=[dict(ref_backend="onnx", ref_device="cpu", test_backend="tensorrt", test_device="cuda")],
        none=[],
    ),
)
