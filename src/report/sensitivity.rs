//! The page of `bench sensitivity`: heat maps of divergence and of output error, and the units that lose most.

use std::collections::BTreeMap;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::heat::{HeatMap, of_values};
use crate::error::{Error, Result};
use crate::results::{Effect, Sensitivity};
use crate::text::one_line;
use crate::units;

/// Units in the list of those that lose most.
const LISTED: usize = 12;

#[derive(Serialize)]
struct Page {
    style: &'static str,
    title: String,
    facts: Vec<(&'static str, String)>,
    divergence: Vec<HeatMap>,
    error: Vec<HeatMap>,
    worst: Vec<Row>,
}

/// A unit in one format.
#[derive(Serialize)]
struct Row {
    unit: String,
    format: String,
    kl: String,
    interval: String,
    output_error: String,
    bytes: String,
}

/// A self-contained page; `title` names the model.
///
/// # Errors
/// When the template does not render, which a test rules out.
pub fn sensitivity_page(title: &str, found: &Sensitivity) -> Result<String> {
    let fault = |e: minijinja::Error| Error::input("sensitivity.html", e.to_string());
    let mut environment = Environment::new();
    environment.add_template("sensitivity.html", include_str!("page/sensitivity.html")).map_err(fault)?;
    let page = Page {
        style: include_str!("page/style.css"),
        title: one_line(title),
        facts: facts(found),
        divergence: heat(found, |effect| effect.kl),
        error: heat(found, |effect| effect.output_error),
        worst: worst(found),
    };
    environment.get_template("sensitivity.html").and_then(|t| t.render(Serde(page))).map_err(fault)
}

fn facts(found: &Sensitivity) -> Vec<(&'static str, String)> {
    let compared = format!("{} windows, {} tokens", found.windows, found.tokens);
    let learned = match found.calibration_windows {
        0 => "nothing".into(),
        windows => format!("{windows} windows of calibration text"),
    };
    vec![
        ("quantizer", found.method.clone()),
        ("learned from", learned),
        ("everything else", found.reference.clone()),
        ("compared on", compared),
        ("kernels", found.isa.clone()),
        ("program", format!("quantbench {}", found.tool_version)),
    ]
}

/// One map a format.
fn heat(found: &Sensitivity, value: fn(&Effect) -> f64) -> Vec<HeatMap> {
    let maps: Vec<(String, BTreeMap<String, f64>)> = found
        .formats
        .iter()
        .map(|format| {
            let format = format.name();
            let values = found.units.iter().filter_map(|unit| {
                let name = unit.layer.map_or_else(|| unit.unit.clone(), |layer| format!("{layer}.{}", unit.unit));
                Some((name, value(unit.effect(&format)?)))
            });
            (format.clone(), values.collect())
        })
        .collect();
    let fitting = maps.iter().filter(|(_, values)| !values.is_empty());
    of_values(&fitting.map(|(format, values)| (format.as_str(), values)).collect::<Vec<_>>())
}

fn worst(found: &Sensitivity) -> Vec<Row> {
    let mut rows: Vec<(String, &Effect)> =
        found.units.iter().flat_map(|unit| unit.effects.iter().map(|effect| (unit.label(), effect))).collect();
    rows.sort_by(|a, b| b.1.kl.total_cmp(&a.1.kl));
    let row = |(unit, effect): (String, &Effect)| Row {
        unit: one_line(&unit),
        format: one_line(&effect.format),
        kl: format!("{:.2e}", effect.kl),
        interval: effect.kl_interval.map_or("one window".into(), |(low, high)| format!("{low:.2e} to {high:.2e}")),
        output_error: format!("{:.2e}", effect.output_error),
        bytes: units::bytes(effect.bytes),
    };
    rows.into_iter().take(LISTED).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{SENSITIVITY_SCHEMA, UnitSensitivity};
    use crate::suite::{Format, Observer};

    #[test]
    fn every_unit_is_on_the_map_and_names_are_harmless() {
        let effect = |format: &str, kl| Effect {
            format: format.into(),
            output_error: kl / 10.0,
            kl,
            kl_interval: None,
            bytes: 4096,
        };
        let unit = |layer, unit: &str, effects| UnitSensitivity {
            layer,
            unit: unit.into(),
            modules: vec![],
            weights: 8192,
            effects,
        };
        let found = Sensitivity {
            schema_version: SENSITIVITY_SCHEMA,
            tool_version: "0".into(),
            model_sha256: String::new(),
            method: "rtn".into(),
            reference: "f16".into(),
            isa: "scalar".into(),
            calibration_windows: 0,
            windows: 1,
            tokens: 64,
            formats: ["4g32", "8"].map(|name| Format::parse(name, Observer::MinMax).unwrap()).into(),
            units: vec![
                unit(Some(0), "qkv", vec![effect("4g32", 0.4), effect("8", 0.2)]),
                unit(Some(1), "down", vec![effect("8", 0.1)]),
                unit(None, "head", vec![effect("8", 0.06)]),
            ],
        };
        let page = sensitivity_page("a <b> model", &found).unwrap();
        assert!(page.contains("a &lt;b&gt; model") && !page.contains("<b>"), "{page}");
        for shown in ["4.0e-1", "2.0e-1", "1.0e-1", "6.0e-2", "block 1 down", "outside", "one window", "--heat:100"] {
            assert!(page.contains(shown), "{shown} is missing in {page}");
        }
        assert!(page.find("4.00e-1").unwrap() < page.find("2.00e-1").unwrap(), "the worst unit comes first");
    }
}
