//! Litmus tests as machines to time.

use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;

/// All variants of a litmus text.
pub(crate) fn scenarios(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let test = driftheap::litmus::parse(file, text, &ModelRules)
        .map_err(|all| all.iter().map(|one| one.render(false)).collect::<String>())?;
    let lower = |variant| Scenario::new(variant, text).map_err(|error| error.to_string());
    test.variants.iter().map(lower).collect()
}

/// The first variant of a litmus text.
pub(crate) fn scenario(file: &str, text: &str) -> Result<Scenario, String> {
    scenarios(file, text)?.into_iter().next().ok_or_else(|| "no variant".to_owned())
}
