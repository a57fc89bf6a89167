//! The caller of a function that has put its return address nowhere.
//!
//! On arm64 a call leaves the return address in a register, and a function that calls none, such as
//! libc's `ioctl`, keeps it there. /proc/TID/syscall does not show that register, and reading it would
//! need the thread to stop. What is known is the stack, and that whoever called has a call of this
//! function in its code:
//!
//! 1. every call (`bl`) of the function is looked for, in the program and in the function's own file:
//!    direct, through the linkage table, or of a function that ends by jumping there;
//! 2. of those places the ones remain from where unwinding goes on as it must, for some frames: what is
//!    the return address by a frame's layout follows a call, and where that call names its target, it is
//!    the function that it was left by;
//! 3. where a place's own frame can be counted from the stack pointer, its return address lies at one
//!    word, which has to fit. Where the frame needs the frame pointer, which is guessed, the same guess fits
//!    many: such places count only if none of the first kind is left;
//! 4. one is left: that is the caller. Several in one function: the caller is that function, and the
//!    line is not told. Several in more than one: nothing is.
//!
//! **Differs from Linux**: the kernel's own traces see the register.

use std::sync::Arc;

use super::{Base, Memory, Registers, Rule, Stacks, caller, follows_a_call};
use crate::device::misuse::StackFrame;
use crate::sys::arch;

/// Most bytes of code that are searched for calls.
const CODE_BYTES_MAX: u64 = 64 << 20;
/// Most functions that end by jumping to the one that is asked for.
const TAILS_MAX: usize = 8;
/// Most calls that are looked at.
const CALLS_MAX: usize = 512;

/// Frames through which a place must be unwound.
const DEPTH: usize = 4;

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafCaller {
    /// Where it goes on.
    pub(super) ret: u64,
    /// Whether it is that call of its function, or just one of them.
    pub(super) exact: bool,
}

/// Where a call returns to, and unwinding goes on.
#[derive(Clone, Copy, Debug)]
struct Place {
    ret: u64,
    /// The function that it is in.
    function: u64,
    /// Whether its own frame was found by a guess of the frame pointer.
    guessed: bool,
}

/// Code of a process: where it is, and its words.
struct CodeWords {
    start: u64,
    words: Vec<u32>,
}

impl CodeWords {
    fn read(pid: i32, start: u64, end: u64) -> Option<Self> {
        let len = usize::try_from((end - start).min(CODE_BYTES_MAX)).ok()?;
        let bytes = caller::read(pid, start, len).ok()?;
        let words = bytes.chunks_exact(4).map(|word| {
            let mut four = [0; 4];
            four.copy_from_slice(word);
            u32::from_le_bytes(four)
        });
        Some(Self { start, words: words.collect() })
    }

    /// Each word with its address.
    fn each(&self) -> impl Iterator<Item = (u64, u32)> {
        (self.start..).step_by(4).zip(self.words.iter().copied())
    }

    /// The words from `at` on.
    fn at(&self, at: u64) -> Option<&[u32]> {
        let first = usize::try_from(at.checked_sub(self.start)? / 4).ok()?;
        self.words.get(first..)
    }
}

impl Stacks {
    /// The caller of the function that `at` is in, whose frame `rule` leaves.
    pub(super) fn caller_of_leaf(
        &mut self,
        pid: i32,
        at: Registers,
        rule: Rule,
        stack: &Memory,
    ) -> Option<LeafCaller> {
        if rule.base != Base::Stack {
            return None;
        }
        let sp = at.sp.checked_add_signed(rule.offset)?;
        let entry = self.entry(pid, at.pc)?;
        let calls = self.calls_of(pid, at.pc, entry);
        let fits: Vec<Place> =
            calls.into_iter().filter_map(|ret| self.goes_on(pid, ret, sp, stack)).collect();
        chosen(&fits)
    }

    /// What is shown of it.
    pub(super) fn frames_of_caller(
        &mut self,
        pid: i32,
        caller: LeafCaller,
    ) -> Option<Vec<StackFrame>> {
        let (frames, _) = self.frames(pid, caller.ret, true)?;
        if caller.exact {
            return Some(frames);
        }
        let entry = self.entry(pid, caller.ret.checked_sub(1)?)?;
        let frame = frames.into_iter().next_back()?;
        let mut symbol = (*frame.symbol).clone();
        symbol.offset = symbol.offset.wrapping_sub(frame.pc - entry);
        if let Some((_, line)) = &mut symbol.source {
            *line = 0;
        }
        Some(vec![StackFrame { pc: entry, symbol: Arc::new(symbol) }])
    }

    /// The first address of the function at `pc`.
    fn entry(&mut self, pid: i32, pc: u64) -> Option<u64> {
        let (module, address) = self.locate(pid, pc)?;
        let begins = module.function(address)?;
        pc.checked_sub(address.checked_sub(begins)?)
    }

    /// Where the calls return to that reach `entry`, in the program and in the file of `pc`.
    fn calls_of(&mut self, pid: i32, pc: u64, entry: u64) -> Vec<u64> {
        if let Some(known) = self.calls.get(&(pid, entry)) {
            return known.clone();
        }
        let (Some(image), Some(branches)) = (self.images.get(&pid), arch::BRANCHES) else {
            return Vec::new();
        };
        let here = image.code.iter().find(|code| code.contains(pc)).map(|code| code.inode);
        let ranges: Vec<(u64, u64)> = image
            .code
            .iter()
            .filter(|code| image.is_own(code) || Some(code.inode) == here)
            .map(|code| (code.start, code.end))
            .collect();
        let all: Vec<CodeWords> = ranges
            .into_iter()
            .filter_map(|(start, end)| CodeWords::read(pid, start, end))
            .collect();
        let mut entry_of = |at| self.entry(pid, at);
        let calls = calls_in(&all, entry, branches, &mut entry_of, &|slot| word_of(pid, slot));
        self.calls.insert((pid, entry), calls.clone());
        calls
    }

    /// The place that `ret` is, if unwinding goes on from there with this stack pointer, for as far as is
    /// looked.
    fn goes_on(&mut self, pid: i32, ret: u64, sp: u64, stack: &Memory) -> Option<Place> {
        let function = self.entry(pid, ret.checked_sub(1)?)?;
        let mut place = Place { ret, function, guessed: false };
        let mut at = Registers { pc: ret, sp, bp: None, link: None };
        for depth in 0..DEPTH {
            let (_, rule) = self.frames(pid, at.pc, true)?;
            let Some(rule) = rule.filter(|rule| rule.ret.is_some()) else {
                // The outermost function says no way on.
                return (depth > 0).then_some(place);
            };
            if rule.base == Base::Frame && at.bp.is_none() {
                place.guessed |= depth == 0;
                at.bp = self.guess_frame_pointer(pid, at.sp, stack);
            }
            let next = super::step(rule, at, stack)?;
            self.locate(pid, next.pc)?;
            if !follows_a_call(pid, next.pc) {
                return None;
            }
            let call = next.pc.checked_sub(4)?;
            let word = u32::from_le_bytes(*caller::read(pid, call, 4).ok()?.first_chunk()?);
            if let Some(target) = arch::BRANCHES.and_then(|branches| (branches.call)(call, word)) {
                // A target in a linkage table is not a function's beginning, and names nobody.
                let is_here = self.entry(pid, at.pc.checked_sub(1)?) == Some(target);
                if !is_here && self.entry(pid, target) == Some(target) {
                    return None;
                }
            }
            at = next;
        }
        Some(place)
    }
}

/// The caller, of the places that fit.
fn chosen(fits: &[Place]) -> Option<LeafCaller> {
    let all_guessed = fits.iter().all(|place| place.guessed);
    let fits: Vec<&Place> = fits.iter().filter(|place| all_guessed || !place.guessed).collect();
    let first = fits.first()?;
    let same = fits.iter().all(|place| place.function == first.function);
    same.then_some(LeafCaller { ret: first.ret, exact: fits.len() == 1 })
}

/// Where the calls in this code return to that reach `entry`. `entry_of` knows where functions begin,
/// `word_at` what a slot of a linkage table holds.
fn calls_in(
    all: &[CodeWords],
    entry: u64,
    branches: arch::Branches,
    entry_of: &mut dyn FnMut(u64) -> Option<u64>,
    word_at: &dyn Fn(u64) -> Option<u64>,
) -> Vec<u64> {
    // Those that end by jumping there are entered as it would be.
    let mut entries = vec![entry];
    let mut asked = 0;
    while let Some(&target) = entries.get(asked) {
        asked += 1;
        for (at, word) in all.iter().flat_map(CodeWords::each) {
            if (branches.jump)(at, word) == Some(target)
                && let Some(from) = entry_of(at)
                && from != target
                && !entries.contains(&from)
                && entries.len() < TAILS_MAX
            {
                entries.push(from);
            }
        }
    }
    let reaches = |code: &CodeWords, target: u64| {
        let slot = || (branches.slot)(target, code.at(target)?);
        entries.contains(&target)
            || slot().and_then(word_at).is_some_and(|leads| entries.contains(&leads))
    };
    all.iter()
        .flat_map(|code| code.each().map(move |(at, word)| (code, at, word)))
        .filter(|&(code, at, word)| {
            (branches.call)(at, word).is_some_and(|target| reaches(code, target))
        })
        .map(|(_, at, _)| at + 4)
        .take(CALLS_MAX)
        .collect()
}

/// A word of a process.
fn word_of(pid: i32, at: u64) -> Option<u64> {
    let bytes = caller::read(pid, at, 8).ok()?;
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: u64 = 0x40_0000;
    const LIBRARY: u64 = 0x7f00_0000_0000;
    const NOP: u32 = 0xd503_201f;
    const SLOT: u64 = PROGRAM + 0x2_0f98;

    /// `bl` or `b` at one word of a file to another.
    fn branch(call: bool, from: u64, to: u64) -> u32 {
        let words = u32::try_from((to.wrapping_sub(from) / 4) & 0x03ff_ffff).unwrap();
        (if call { 0x9400_0000 } else { 0x1400_0000 }) | words
    }

    /// Functions of four words each in a program and a library: the words that `at` says, NOP elsewhere.
    fn code(start: u64, functions: u64, at: &[(u64, u32)]) -> CodeWords {
        let word = |place| at.iter().find(|(of, _)| *of == place).map_or(NOP, |(_, word)| *word);
        let words = (0..functions * 4).map(|n| word(start + 4 * n)).collect();
        CodeWords { start, words }
    }

    fn calls(all: &[CodeWords], entry: u64) -> Vec<u64> {
        let word_at = |slot| (slot == SLOT).then_some(LIBRARY);
        calls_in(all, entry, arch::a64::BRANCHES, &mut |at| Some(at & !15), &word_at)
    }

    #[test]
    fn every_way_to_reach_a_function_is_found() {
        // The library's first function is the one that is asked for; its third ends by jumping there.
        let tail = LIBRARY + 0x20;
        let inside = LIBRARY + 0x34;
        let library = [
            (tail + 4, branch(false, tail + 4, LIBRARY)),
            (inside, branch(true, inside, LIBRARY)),
            (inside + 4, branch(true, inside + 4, tail)),
            (inside + 8, branch(true, inside + 8, LIBRARY + 0x10)),
        ];
        // The program's second function is a stub of its linkage table.
        let stub = PROGRAM + 0x10;
        let [bti, adrp, ldr, jump] = [0xd503_245f, 0x9000_0110, 0xf947_ce11, 0xd61f_0220];
        let program = [
            (PROGRAM + 4, branch(true, PROGRAM + 4, stub)),
            (stub, bti),
            (stub + 4, adrp),
            (stub + 8, ldr),
            (stub + 12, jump),
        ];
        let all = [code(PROGRAM, 2, &program), code(LIBRARY, 4, &library)];
        assert_eq!(calls(&all, LIBRARY), [PROGRAM + 8, inside + 4, inside + 8]);
        assert_eq!(calls(&all, LIBRARY + 0x10), [inside + 12]);
        assert!(calls(&all, PROGRAM).is_empty());
    }

    #[test]
    fn a_function_that_jumps_to_itself_is_asked_once() {
        let all = [code(PROGRAM, 1, &[(PROGRAM + 8, branch(false, PROGRAM + 8, PROGRAM))])];
        assert!(calls(&all, PROGRAM).is_empty());
        // As many as are looked at, and no more.
        let many: Vec<(u64, u32)> = (1..40)
            .flat_map(|n| {
                let at = PROGRAM + 16 * n;
                [(at, branch(true, at, at - 16)), (at + 4, branch(false, at + 4, at - 16))]
            })
            .collect();
        let all = [code(PROGRAM, 40, &many)];
        assert_eq!(calls(&all, PROGRAM).len(), TAILS_MAX);
    }

    #[test]
    fn two_calls_of_one_function_tell_the_function_and_not_the_line() {
        let at = |ret, function| Place { ret, function, guessed: false };
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[at(8, 1)]), Some(LeafCaller { ret: 8, exact: true }));
        assert_eq!(chosen(&[at(8, 1), at(16, 1)]), Some(LeafCaller { ret: 8, exact: false }));
        assert_eq!(chosen(&[at(8, 1), at(16, 2)]), None);
    }

    #[test]
    fn a_guess_counts_only_where_nothing_else_fits() {
        let at = |ret, function, guessed| Place { ret, function, guessed };
        let both = [at(4, 3, true), at(8, 1, false), at(12, 1, false), at(20, 2, true)];
        assert_eq!(chosen(&both), Some(LeafCaller { ret: 8, exact: false }));
        assert_eq!(chosen(&both[..2]), Some(LeafCaller { ret: 8, exact: true }));
        assert_eq!(chosen(&both[..1]), Some(LeafCaller { ret: 4, exact: true }));
        assert_eq!(chosen(&[both[0], both[3]]), None);
    }
}
