//! The kinds of misuse and the list that `--fail-on` takes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// What a program did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The CPU touched a mapping while no SYNC bracket was open on the buffer.
    UnbracketedAccess,
    /// The CPU wrote while only brackets for reading were open.
    WriteInReadBracket,
    /// MAP_PRIVATE of a buffer: what is written there reaches no device.
    PrivateMapping,
    /// get_user_pages through the mapping, still held as the buffer moved: it refers to memory
    /// that is no longer the buffer's.
    PinAcrossMove,
    /// The CPU touched a revoked buffer (SIGBUS).
    AccessAfterRevoke,
    /// The CPU touched a purged buffer (SIGBUS).
    AccessAfterPurge,
    /// mmap of a buffer through an importer's file.
    ImporterMmap,
    /// The last process that held a buffer ended without giving it back.
    LeakedFd,
    /// A device reached the buffer without a fence that says so.
    UnfencedDma,
    /// A SYNC bracket was still open when its buffer or its process went.
    UnendedBracket,
    /// SYNC END where nothing was started.
    EndWithoutStart,
    /// SYNC END of another direction than its START.
    MismatchedEnd,
    /// SYNC START of what the thread's own open bracket covers already.
    NestedBracket,
    /// A device used an address that was not the buffer's any more.
    StaleDma,
    /// A device transferred while the CPU had a bracket open on the buffer.
    DmaInBracket,
}

impl Kind {
    /// Every kind, as it is spelled.
    pub const WORDS: [(&'static str, Self); 15] = [
        ("unbracketed-access", Self::UnbracketedAccess),
        ("write-in-read-bracket", Self::WriteInReadBracket),
        ("private-mapping", Self::PrivateMapping),
        ("pin-across-move", Self::PinAcrossMove),
        ("access-after-revoke", Self::AccessAfterRevoke),
        ("access-after-purge", Self::AccessAfterPurge),
        ("importer-mmap", Self::ImporterMmap),
        ("leaked-fd", Self::LeakedFd),
        ("unfenced-dma", Self::UnfencedDma),
        ("unended-bracket", Self::UnendedBracket),
        ("end-without-start", Self::EndWithoutStart),
        ("mismatched-end", Self::MismatchedEnd),
        ("nested-bracket", Self::NestedBracket),
        ("stale-dma", Self::StaleDma),
        ("dma-in-bracket", Self::DmaInBracket),
    ];

    /// How it is spelled.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("?", |(word, _)| word)
    }

    /// What would prevent it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::UnbracketedAccess => {
                "put DMA_BUF_IOCTL_SYNC with DMA_BUF_SYNC_START before the access and \
                 DMA_BUF_SYNC_END after it"
            }
            Self::WriteInReadBracket => {
                "start the bracket with DMA_BUF_SYNC_WRITE or DMA_BUF_SYNC_RW"
            }
            Self::PrivateMapping => "map it with MAP_SHARED; keep a copy in memory of your own",
            Self::PinAcrossMove => {
                "copy through memory of your own, or attach the buffer instead of pinning its pages"
            }
            Self::AccessAfterRevoke | Self::AccessAfterPurge => {
                "unmap the buffer when its exporter says that it is gone, or handle SIGBUS"
            }
            Self::ImporterMmap => "map the dma-buf's own file descriptor",
            Self::LeakedFd => "close the descriptor and unmap the buffer when it is done with",
            Self::UnfencedDma => "import the device's fence into the buffer before the access",
            Self::UnendedBracket => {
                "put DMA_BUF_IOCTL_SYNC with DMA_BUF_SYNC_END on every way out, the early ones too"
            }
            Self::EndWithoutStart => {
                "start the bracket before the access; END without START hands over nothing"
            }
            Self::MismatchedEnd => "give END the direction that START had",
            Self::NestedBracket => {
                "end the bracket before the next START: the first END hands the buffer to the \
                 devices, however many brackets were started"
            }
            Self::StaleDma => {
                "map the attachment again after move_notify, under the reservation lock"
            }
            Self::DmaInBracket => {
                "end the bracket before the buffer is given to the device, and start the next one \
                 when the device has finished"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The kinds that make a run fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(BTreeSet<Kind>);

impl Kinds {
    /// Whether `kind` is among them.
    pub fn contains(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A word that is not a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not a kind of misuse{hint}; there are: any, {known}")]
pub struct UnknownKind {
    word: String,
    hint: String,
    known: String,
}

impl FromStr for Kinds {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let mut kinds = BTreeSet::new();
        for word in text.split(',').map(str::trim) {
            if word == "any" {
                kinds.extend(Kind::WORDS.map(|(_, kind)| kind));
                continue;
            }
            let known = Kind::WORDS.iter().find(|(name, _)| *name == word);
            let (_, kind) = known.ok_or_else(|| unknown(word))?;
            kinds.insert(*kind);
        }
        Ok(Self(kinds))
    }
}

fn unknown(word: &str) -> UnknownKind {
    let names = Kind::WORDS.map(|(name, _)| name);
    let near = names.iter().find(|name| strsim::damerau_levenshtein(word, name) <= 3);
    UnknownKind {
        word: word.to_owned(),
        hint: near.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)")),
        known: names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_kinds() {
        let two: Kinds = "leaked-fd, private-mapping".parse().unwrap();
        assert!(two.contains(Kind::LeakedFd) && two.contains(Kind::PrivateMapping));
        assert!(!two.contains(Kind::UnfencedDma));
        let any: Kinds = "any".parse().unwrap();
        assert!(Kind::WORDS.iter().all(|(_, kind)| any.contains(*kind)));
        let error = "leaked-fds".parse::<Kinds>().unwrap_err().to_string();
        assert!(error.contains("did you mean `leaked-fd`?"), "{error}");
        assert!("".parse::<Kinds>().is_err());
    }

    #[test]
    fn every_kind_has_one_word() {
        for (word, kind) in Kind::WORDS {
            assert_eq!(kind.word(), word);
            assert!(!kind.remedy().is_empty());
        }
    }
}
