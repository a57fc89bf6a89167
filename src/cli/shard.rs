//! `check --shard K/N`: which part, and of what.

use std::hash::{DefaultHasher, Hash, Hasher};

/// `K/N`.
pub(crate) fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').map(|(k, n)| (k.parse().ok(), n.parse().ok()));
    match numbers {
        Some((Some(k), Some(n))) if (1..=n).contains(&k) => Ok((k, n)),
        _ => Err(format!("`{text}` is not a part: write K/N, as 1/4 to 4/4 for four parts")),
    }
}

/// Tells what was asked from anything else: the questions' texts in their order, and how they were
/// asked. Runs of one build of driftheap agree on it.
pub(crate) fn asked<'t>(texts: impl Iterator<Item = &'t str>, how: &impl std::fmt::Debug) -> u32 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    format!("{how:?}").hash(&mut hasher);
    for text in texts {
        text.hash(&mut hasher);
    }
    u32::try_from(hasher.finish() >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_another_order_and_other_options_are_other_questions() {
        let of = |texts: &[&str], how: &str| asked(texts.iter().copied(), &how);
        let digest = of(&["a", "b"], "full");
        assert_eq!(digest, of(&["a", "b"], "full"));
        for other in [of(&["b", "a"], "full"), of(&["ab", ""], "full"), of(&["a", "b"], "first")] {
            assert_ne!(digest, other);
        }
    }
}
