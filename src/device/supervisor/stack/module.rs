//! An executable or library on disk: how to unwind from an address in it, and what is there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{BaseAddresses, CfaRule, EhFrame, LittleEndian, RegisterRule, UnwindSection};
use object::{Object, ObjectSection, ObjectSegment};

use crate::device::misuse::Symbol;
use crate::sys::arch;

/// Longest file that is read for its unwind tables.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What the canonical frame address is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The stack pointer.
    Stack,
    /// The frame pointer.
    Frame,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Still in its register.
    Same,
    /// In memory, counted from the canonical frame address.
    At(i64),
    /// Nowhere.
    Lost,
}

/// How to get from a frame to its caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The canonical frame address is this register...
    pub(super) base: Base,
    /// ...plus this many bytes.
    pub(super) offset: i64,
    /// Where the return address lies, counted from it; `None`: it is in a register still.
    pub(super) ret: Option<i64>,
    /// The caller's frame pointer.
    pub(super) bp: Saved,
}

/// A loaded part of a file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    file: u64,
    len: u64,
    addr: u64,
}

/// `.eh_frame` with what its pointers are relative to.
struct Cfi {
    bytes: Vec<u8>,
    bases: BaseAddresses,
}

/// A file that has code in some process.
pub(super) struct Module {
    path: String,
    own: bool,
    segments: Vec<Segment>,
    cfi: Option<Cfi>,
    debug: Option<addr2line::Loader>,
    rules: BTreeMap<u64, Option<Rule>>,
    /// First address and length of every function, once one was asked for.
    functions: Option<BTreeMap<u64, u64>>,
    symbols: BTreeMap<u64, Vec<Arc<Symbol>>>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Module {
    /// Reads what the file has. A file that can't be read gives a module that knows its path only.
    /// `own`: it is the program itself, not a library.
    pub(super) fn open(name: &str, candidates: &[PathBuf], own: bool) -> Self {
        let mut module = Self {
            path: name.to_owned(),
            own,
            segments: Vec::new(),
            cfi: None,
            debug: None,
            rules: BTreeMap::new(),
            functions: None,
            symbols: BTreeMap::new(),
        };
        let Some(path) = candidates.iter().find(|path| readable(path)) else { return module };
        module.debug = addr2line::Loader::new(path).ok();
        if let Ok(bytes) = std::fs::read(path)
            && let Ok(file) = object::File::parse(&*bytes)
        {
            module.segments = segments(&file);
            module.cfi = cfi(&file);
        }
        module
    }

    /// The address that the file's own headers give to the byte at file offset `offset`.
    pub(super) fn address(&self, offset: u64) -> Option<u64> {
        let within = |segment: &&Segment| offset.wrapping_sub(segment.file) < segment.len;
        let segment = self.segments.iter().find(within)?;
        segment.addr.checked_add(offset - segment.file)
    }

    /// What is at `address`: of functions inlined there the innermost first, and never nothing. A
    /// return address is looked up one byte earlier, in the call.
    pub(super) fn symbols(&mut self, address: u64, returns: bool) -> Vec<Arc<Symbol>> {
        let probe = address - u64::from(returns && address > 0);
        if let Some(known) = self.symbols.get(&probe) {
            return known.clone();
        }
        let found = self.debug.as_ref().map_or_else(Vec::new, |debug| look(debug, probe));
        let symbol = |(function, source)| {
            let module = self.path.clone();
            Arc::new(Symbol { module, offset: address, function, source, own: self.own })
        };
        let mut symbols: Vec<_> = found.into_iter().map(symbol).collect();
        if symbols.is_empty() {
            symbols.push(symbol((None, None)));
        }
        self.symbols.insert(probe, symbols.clone());
        symbols
    }

    /// How to unwind from `address`; `None` where the file does not say it in a way that needs
    /// rsp and rbp alone.
    pub(super) fn rule(&mut self, address: u64) -> Option<Rule> {
        if let Some(&known) = self.rules.get(&address) {
            return known;
        }
        let rule = self.cfi.as_ref().and_then(|cfi| unwind_rule(cfi, address));
        self.rules.insert(address, rule);
        rule
    }
}

impl Module {
    /// The first address of the function at `address`, as the unwind tables divide the code.
    pub(super) fn function(&mut self, address: u64) -> Option<u64> {
        let cfi = self.cfi.as_ref()?;
        let functions = self.functions.get_or_insert_with(|| functions(cfi));
        let (&begins, &len) = functions.range(..=address).next_back()?;
        (address - begins < len).then_some(begins)
    }
}

impl Cfi {
    fn section(&self) -> EhFrame<gimli::EndianSlice<'_, LittleEndian>> {
        let mut eh_frame = EhFrame::new(&self.bytes, LittleEndian);
        eh_frame.set_address_size(8);
        eh_frame.set_vendor(arch::DWARF_VENDOR);
        eh_frame
    }
}

fn readable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_BYTES_MAX)
}

fn segments(file: &object::File<'_>) -> Vec<Segment> {
    let part = |segment: object::Segment<'_, '_>| {
        let (file, len) = segment.file_range();
        Segment { file, len, addr: segment.address() }
    };
    file.segments().map(part).collect()
}

fn cfi(file: &object::File<'_>) -> Option<Cfi> {
    let section = file.section_by_name(".eh_frame")?;
    let bytes = section.uncompressed_data().ok()?.into_owned();
    let address = |name: &str| file.section_by_name(name).map_or(0, |section| section.address());
    let bases = BaseAddresses::default()
        .set_eh_frame(section.address())
        .set_text(address(".text"))
        .set_got(address(".got"));
    Some(Cfi { bytes, bases })
}

fn functions(cfi: &Cfi) -> BTreeMap<u64, u64> {
    let eh_frame = cfi.section();
    let mut entries = eh_frame.entries(&cfi.bases);
    let mut found = BTreeMap::new();
    while let Ok(Some(entry)) = entries.next() {
        if let gimli::CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
        {
            found.insert(fde.initial_address(), fde.len());
        }
    }
    found
}

fn unwind_rule(cfi: &Cfi, address: u64) -> Option<Rule> {
    let eh_frame = cfi.section();
    let mut context = gimli::UnwindContext::new();
    let by_offset = EhFrame::cie_from_offset;
    let row =
        eh_frame.unwind_info_for_address(&cfi.bases, &mut context, address, by_offset).ok()?;
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
    let base = match register {
        arch::DWARF_STACK => Base::Stack,
        arch::DWARF_FRAME => Base::Frame,
        _ => return None,
    };
    let ret = match row.register(arch::DWARF_RETURN) {
        Some(RegisterRule::Offset(ret)) => Some(ret),
        None | Some(RegisterRule::SameValue) if !arch::RETURN_IS_SAVED => None,
        _ => return None,
    };
    let bp = match row.register(arch::DWARF_FRAME) {
        None | Some(RegisterRule::SameValue) => Saved::Same,
        Some(RegisterRule::Offset(at)) => Saved::At(at),
        Some(_) => Saved::Lost,
    };
    Some(Rule { base, offset, ret, bp })
}

/// Function and source line.
type Found = (Option<String>, Option<(String, u32)>);

/// What the debug information says about an address, else the symbol table.
fn look(debug: &addr2line::Loader, probe: u64) -> Vec<Found> {
    let by_table = || {
        let name = debug.find_symbol(probe)?;
        Some(addr2line::demangle_auto(name.into(), None).into_owned())
    };
    let mut found = Vec::new();
    if let Ok(mut frames) = debug.find_frames(probe) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned()));
            let place =
                frame.location.and_then(|place| Some((place.file?.to_owned(), place.line?)));
            found.push((name, place));
        }
    }
    match &mut *found {
        [] => found.extend(by_table().map(|name| (Some(name), None))),
        [(name @ None, _)] => *name = by_table(),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment that a file claims to have at the end of the address space.
    #[test]
    fn an_address_that_does_not_exist_is_none() {
        let mut module = Module::open("x", &[], true);
        module.segments.push(Segment { file: 0, len: 0x1000, addr: u64::MAX - 8 });
        assert_eq!(module.address(8), Some(u64::MAX));
        assert_eq!(module.address(9), None);
    }
}
