//! From names and paths to litmus tests.

use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use driftheap::litmus::ast::{Test, Variant};
use driftheap::litmus::diag::Diagnostic;
use driftheap::litmus::rules::ModelRules;
use driftheap::litmus::{FILE_BYTES_MAX, parse};
use driftheap::question::scenario::{LowerError, Scenario};
use driftheap::suite;
use driftheap::terminal::printed;

use super::out::Out;

/// What diagnostics call standard input.
const STDIN: &str = "<stdin>";

/// Longest wait for somebody to write into a pipe or a terminal that is named as a file.
const WRITER_SECONDS_MAX: i64 = 10;

/// A litmus test, with where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// As diagnostics name it.
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) test: Test,
    /// The word that names it on a command line of driftheap's.
    pub(crate) word: String,
}

/// The text of a file, before anybody has parsed it.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) file: String,
    pub(crate) text: String,
    /// Where it can be written back; not for standard input and bundled tests.
    pub(crate) path: Option<PathBuf>,
}

/// The text of standard input (`-`), of a file, of all `*.litmus` files of a directory, or of
/// bundled tests by name or row. What can't be read is an `Err` each, with its reason.
pub(crate) fn texts(name: &str) -> Vec<Result<Text, String>> {
    if name == "-" {
        return vec![stdin()];
    }
    let path = Path::new(name);
    if path.is_dir() {
        return directory(path);
    }
    if path.exists() || name.ends_with(".litmus") || name.contains('/') {
        return vec![file(path)];
    }
    let bundled = |test: &suite::Bundled| {
        Ok(Text { file: test.file.to_owned(), text: test.text.to_owned(), path: None })
    };
    if let Some(tests) = suite::rows(name) {
        return tests.into_iter().map(bundled).collect();
    }
    match suite::find(name) {
        Some(test) => vec![bundled(test)],
        None => vec![Err(unknown(name))],
    }
}

fn unknown(name: &str) -> String {
    let nearest = suite::TESTS
        .iter()
        .map(|test| (strsim::osa_distance(name, test.name), test.name))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 3)
        .min();
    let hint = match nearest {
        _ if suite::is_range(name) => {
            let mut rows: Vec<&str> = suite::TESTS.iter().map(|test| test.row).collect();
            rows.dedup();
            format!("a range goes from one row to a later one; rows are {}", rows.join(" "))
        }
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => "`driftheap list` lists the bundled tests".to_owned(),
    };
    format!("`{}` is neither a file nor a bundled test; {hint}", printed(name))
}

fn decode(name: &str, bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > FILE_BYTES_MAX {
        let limit = FILE_BYTES_MAX >> 10;
        return Err(format!("{name}: longer than {limit} KiB, which is the limit"));
    }
    let line_of = |text: &[u8]| 1 + text.iter().filter(|byte| **byte == b'\n').count();
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = line_of(&error.as_bytes()[..valid]);
        format!("{name}:{line}: not UTF-8 (at byte {valid}); save it as UTF-8")
    })?;
    let lone = |(at, _): &(usize, &str)| !text[at + 1..].starts_with('\n');
    if let Some((at, _)) = text.match_indices('\r').find(lone) {
        let line = line_of(&text.as_bytes()[..at]);
        return Err(format!(
            "{name}:{line}: a carriage return that ends no line; save it with lines that end in LF \
             or CR LF"
        ));
    }
    Ok(text)
}

/// As many bytes as are needed to tell that there are too many.
fn read_some(source: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stdin() -> Result<Text, String> {
    let file = STDIN.to_owned();
    let bytes = read_some(std::io::stdin().lock())
        .map_err(|error| format!("can't read standard input: {error}"))?;
    Ok(Text { text: decode(&file, bytes)?, file, path: None })
}

/// A file that need not be a regular one: nothing keeps us waiting for ever.
fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = std::fs::File::options().read(true).custom_flags(nonblocking).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let wait = Timespec { tv_sec: WRITER_SECONDS_MAX, tv_nsec: 0 };
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&wait))? == 0 {
            return Err(std::io::Error::other(format!(
                "nobody wrote into it in {WRITER_SECONDS_MAX} s"
            )));
        }
        rustix::io::ioctl_fionbio(&file, false)?;
    }
    Ok(file)
}

/// The text of a file, if it is one that a person can have written.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let name = printed(&path.display().to_string());
    let bytes =
        open(path).and_then(read_some).map_err(|error| format!("can't read {name}: {error}"))?;
    decode(&name, bytes)
}

fn file(path: &Path) -> Result<Text, String> {
    let file = printed(&path.display().to_string());
    Ok(Text { text: read_text(path)?, file, path: Some(path.to_owned()) })
}

/// `word` as a shell has to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:+@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn directory(path: &Path) -> Vec<Result<Text, String>> {
    let name = printed(&path.display().to_string());
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return vec![Err(format!("can't read {name}: {error}"))],
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "litmus"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return vec![Err(format!("there is no *.litmus file in {name}"))];
    }
    paths.iter().map(|path| file(path)).collect()
}

/// Parse what `names` name. Every mistake is printed; the second value says whether there was one.
pub(crate) fn load(names: &[String], out: &Out) -> (Vec<Loaded>, bool) {
    let mut loaded = Vec::new();
    let mut bad = false;
    for text in names.iter().flat_map(|name| texts(name)) {
        match text {
            Err(message) => {
                out.error(&message);
                bad = true;
            }
            Ok(Text { file, text, path }) => match parse(&file, &text, &ModelRules) {
                Ok(test) => {
                    let word = match &path {
                        Some(path) => quoted(&path.to_string_lossy()),
                        None if file == STDIN => "-".to_owned(),
                        None => test.name.text.clone(),
                    };
                    loaded.push(Loaded { file, text, test, word });
                }
                Err(diagnostics) => {
                    diagnose(&diagnostics, out);
                    bad = true;
                }
            },
        }
    }
    (loaded, bad)
}

/// A text that was not read from a file.
pub(crate) fn parsed(file: &str, text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let test = parse(file, text, &ModelRules)?;
    Ok(Loaded { file: file.to_owned(), text: text.to_owned(), test, word: file.to_owned() })
}

/// The bundled suite.
pub(crate) fn bundled(out: &Out) -> (Vec<Loaded>, bool) {
    let names: Vec<String> = suite::TESTS.iter().map(|test| test.name.to_owned()).collect();
    load(&names, out)
}

pub(crate) fn diagnose(diagnostics: &[Diagnostic], out: &Out) {
    for diagnostic in diagnostics {
        out.note(&format!("{}\n", diagnostic.render(out.err_colour())));
    }
}

impl Loaded {
    /// The variants, lowered. What can't be is a mistake of the file, said once however many
    /// variants show it.
    pub(crate) fn scenarios(&self) -> Result<Vec<Scenario>, Vec<Diagnostic>> {
        let mut scenarios = Vec::new();
        let mut errors: Vec<(&Variant, LowerError)> = Vec::new();
        for variant in &self.test.variants {
            match Scenario::new(variant, &self.text) {
                Ok(scenario) => scenarios.push(scenario),
                Err(error) => {
                    let known = |(_, other): &(&Variant, LowerError)| {
                        other.message == error.message && other.span.start == error.span.start
                    };
                    if !errors.iter().any(known) {
                        errors.push((variant, error));
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok(scenarios);
        }
        let diagnostic = |(variant, error): (&Variant, LowerError)| {
            let message = if self.test.variants.len() > 1 {
                format!("{} (variant {})", error.message, variant.name)
            } else {
                error.message
            };
            Diagnostic::new(&self.file, &self.text, error.span, message)
        };
        Err(errors.into_iter().map(diagnostic).collect())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_that_a_shell_reads_as_they_are() {
        for (word, expected) in [
            ("A1", "A1"),
            ("dir/my.litmus", "dir/my.litmus"),
            ("my test.litmus", "'my test.litmus'"),
            ("it's.litmus", r"'it'\''s.litmus'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
        ] {
            assert_eq!(super::quoted(word), expected);
        }
    }
}
