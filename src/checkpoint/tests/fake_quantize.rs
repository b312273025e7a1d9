//! Checkpoints of torch's fake quantizers against what torch calculates.

use super::*;

const FAKE_QUANTIZED: [&str; 4] = ["channel_symmetric", "channel_affine", "tensor_affine", "four_bits"];

#[test]
fn fake_quantized_weights_and_outputs_are_those_of_torch() {
    for name in FAKE_QUANTIZED {
        let folder = fixture("fake_quantize").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert_eq!(checkpoint.names(), ["m.weight"], "{name}");
        let expected = Checkpoint::open(&folder.join("expected.safetensors")).unwrap();
        let of = |tensor: &str| expected.tensor_f32(tensor).unwrap().1;
        let (shape, values) = checkpoint.tensor_f32("m.weight").unwrap();
        assert_eq!(bits(&values), bits(&of("weight")), "{name}");
        assert_outputs(name, &checkpoint, "m.weight", (&of("x"), shape[1]), &of("y"), &values);
    }
}

#[test]
fn fake_quantizers_that_cannot_be_carried_out_are_refused() {
    use serde_json::json;
    let weight = vec![0u8; 16];
    let write = |config: serde_json::Value, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        let folder = folder(&[("config.json", json!({"quantization_config": config}).to_string().as_bytes())]);
        safetensors_file(&folder.path().join("model.safetensors"), tensors);
        folder
    };
    let quantizer = |scale: f32, zero_point: i32, enabled: u8| {
        vec![
            ("m.weight", Dtype::F32, &[2, 2][..], weight.clone()),
            ("m.weight_fake_quant.scale", Dtype::F32, &[1][..], scale.to_le_bytes().to_vec()),
            ("m.weight_fake_quant.zero_point", Dtype::I32, &[1][..], zero_point.to_le_bytes().to_vec()),
            ("m.weight_fake_quant.fake_quant_enabled", Dtype::U8, &[1][..], vec![enabled]),
        ]
    };
    let config = |low: i64, high: i64| json!({"quant_method": "torch-fake-quantize", "weights": {"quant_min": low, "quant_max": high}});
    let good = write(config(-127, 127), &quantizer(0.5, 0, 1));
    assert_eq!(Checkpoint::open(good.path()).unwrap().tensor_f32("m.weight").unwrap().1, [0.0; 4]);
    let mut output = quantizer(0.5, 0, 1);
    output.push(("m.activation_post_process.fake_quant_enabled", Dtype::U8, &[1], vec![1]));
    let mut static_inputs = config(-127, 127);
    static_inputs["activations"] = json!({"mode": "static", "quant_min": 0, "quant_max": 127});
    for (expected, folder) in [
        ("\"quant_method\": \"torch-fake-quantize\"", write(json!(null), &quantizer(0.5, 0, 1))),
        ("missing field `weights`", write(json!({"quant_method": "torch-fake-quantize"}), &quantizer(0.5, 0, 1))),
        ("codes -129..=127", write(config(-129, 127), &quantizer(0.5, 0, 1))),
        ("codes 7..=7", write(config(7, 7), &quantizer(0.5, 0, 1))),
        ("not a positive number", write(config(-127, 127), &quantizer(f32::NAN, 0, 1))),
        ("not a positive number", write(config(-127, 127), &quantizer(-1.0, 0, 1))),
        ("zero point 128", write(config(-127, 127), &quantizer(0.5, 128, 1))),
        ("not trained to be rounded", write(config(-127, 127), &quantizer(0.5, 0, 0))),
        ("missing", write(config(-127, 127), &quantizer(0.5, 0, 1)[..2])),
        ("there is no \"m.weight\"", write(config(-127, 127), &quantizer(0.5, 0, 1)[1..])),
        ("rounds the output", write(config(-127, 127), &output)),
        ("m.input_fake_quant", write(static_inputs, &quantizer(0.5, 0, 1))),
    ] {
        let message = refusal(folder.path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
}
