//! Litmus tests as machines to time.

use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;

/// The first variant of a litmus text.
pub fn scenario(file: &str, text: &str) -> Result<Scenario, String> {
    let test = driftheap::litmus::parse(file, text, &ModelRules)
        .map_err(|all| all.iter().map(|one| one.render(false)).collect::<String>())?;
    let variant = test.variants.first().ok_or("no variant")?;
    Scenario::new(variant, text).map_err(|error| error.to_string())
}
