//! What every method makes of odd weights, through the whole maker.

use super::tests::{make, quantize, quantized, scheme, write_model};
use crate::checkpoint::Checkpoint;
use crate::suite::WeightScheme;
use crate::tensor::Granularity;

const METHODS: [&str; 4] = ["rtn", "gptq", "awq", "hqq"];
const ODD: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn all_zero_and_constant_groups_stay_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, false, &|name, values| {
        if name == ODD {
            // A row of zeros, a group of zeros, a constant row and a constant negative group.
            values[..64].fill(0.0);
            values[64..96].fill(0.0);
            values[128..192].fill(0.25);
            values[192..224].fill(-0.5);
        }
    });
    for method in METHODS {
        for symmetric in [true, false] {
            let scheme = scheme(4, Granularity::Group, symmetric);
            let into = root.path().join(format!("{method}-{symmetric}"));
            make(&model, &quantize(method, scheme, vec![]), &into, 2).unwrap();
            let tensor = quantized(&Checkpoint::open(&into).unwrap(), ODD).0;
            tensor.validate().unwrap();
            let real = tensor.to_f32();
            // GPTQ moves the errors of other columns of a row into its groups, AWQ may have rescaled them.
            let zeros = if method == "gptq" { 64 } else { 96 };
            assert!(real[..zeros].iter().all(|&value| value == 0.0), "{method} {symmetric}: zeros");
            for (values, expected) in [(&real[128..192], 0.25f32), (&real[192..224], -0.5)] {
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                assert!(
                    mean.is_finite() && (method == "awq" || (mean / expected - 1.0).abs() < 0.1),
                    "{method}: {mean}"
                );
            }
        }
    }
}

#[test]
fn what_is_no_number_is_refused_with_the_name_of_its_tensor() {
    let root = tempfile::tempdir().unwrap();
    for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let model = root.path().join(said);
        write_model(&model, false, &|name, values| {
            if name == "model.layers.0.mlp.down_proj.weight" {
                values[7] = value;
            }
        });
        for method in METHODS {
            let recipe = quantize(method, scheme(4, Granularity::Group, true), vec![]);
            let message = make(&model, &recipe, &root.path().join("x"), 1).unwrap_err().to_string();
            assert!(message.contains("model.layers.0.mlp.down_proj.weight"), "{method}: {message}");
            assert!(message.contains(&format!("weight (0, 7) is {said}")), "{method}: {message}");
        }
    }
    assert!(!root.path().join("x").exists());
}

#[test]
fn every_width_and_group_size_goes_through_every_method() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, false, &|_, _| {});
    for method in METHODS {
        let mut errors = Vec::new();
        for bits in 2..=8 {
            for group_size in [16, 32] {
                let scheme = WeightScheme { group_size: Some(group_size), ..scheme(bits, Granularity::Group, true) };
                let into = root.path().join(format!("{method}-{bits}-{group_size}"));
                let artefact = make(&model, &quantize(method, scheme, vec![]), &into, 2).unwrap();
                let exact = f64::from(bits) + 16.0 / group_size as f64;
                assert!((artefact.bits_per_weight.unwrap() - exact).abs() < 0.01, "{method} {scheme}: packed bits");
                let tensor = quantized(&Checkpoint::open(&into).unwrap(), ODD).0;
                let before = Checkpoint::open(&model).unwrap().tensor_f32(ODD).unwrap().1;
                let off = tensor.to_f32().iter().zip(&before).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                errors.push((bits, group_size, off));
            }
        }
        if method != "awq" {
            let of = |group: usize| errors.iter().filter(move |e| e.1 == group).map(|e| e.2);
            assert!(of(32).zip(of(32).skip(1)).all(|(wider, finer)| finer < 0.5 * wider), "{method}: {errors:?}");
        }
    }
}
