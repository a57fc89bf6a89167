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
//! 3. one is left: that is the caller. Several in one function: the caller is that function, and the
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

/// CodeWords of a process: where it is, and its words.
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
        let fits: Vec<(u64, u64)> = calls
            .into_iter()
            .filter_map(|ret| Some((ret, self.goes_on(pid, ret, sp, stack)?)))
            .collect();
        let &(ret, function) = fits.first()?;
        let same = fits.iter().all(|(_, other)| *other == function);
        same.then_some(LeafCaller { ret, exact: fits.len() == 1 })
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
        symbol.source = None;
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
        let Some(image) = self.images.get(&pid) else { return Vec::new() };
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
        // Those that end by jumping there are entered as it would be.
        let mut entries = vec![entry];
        let mut asked = 0;
        while let Some(&target) = entries.get(asked) {
            asked += 1;
            for (at, word) in all.iter().flat_map(CodeWords::each) {
                if arch::jump_target(at, word) == Some(target)
                    && let Some(from) = self.entry(pid, at)
                    && from != target
                    && !entries.contains(&from)
                    && entries.len() < TAILS_MAX
                {
                    entries.push(from);
                }
            }
        }
        let reaches = |code: &CodeWords, target: u64| {
            entries.contains(&target)
                || code.at(target).and_then(|words| arch::stub_slot(target, words)).is_some_and(
                    |slot| word_of(pid, slot).is_some_and(|leads| entries.contains(&leads)),
                )
        };
        let calls: Vec<u64> = all
            .iter()
            .flat_map(|code| code.each().map(move |(at, word)| (code, at, word)))
            .filter(|&(code, at, word)| {
                arch::call_target(at, word).is_some_and(|target| reaches(code, target))
            })
            .map(|(_, at, _)| at + 4)
            .take(CALLS_MAX)
            .collect();
        self.calls.insert((pid, entry), calls.clone());
        calls
    }

    /// Whether unwinding goes on from `ret` with this stack pointer, for as far as is looked; the function
    /// that it is in.
    fn goes_on(&mut self, pid: i32, ret: u64, sp: u64, stack: &Memory) -> Option<u64> {
        let function = self.entry(pid, ret.checked_sub(1)?)?;
        let mut at = Registers { pc: ret, sp, bp: None, link: None };
        for depth in 0..DEPTH {
            let (_, rule) = self.frames(pid, at.pc, true)?;
            let Some(rule) = rule.filter(|rule| rule.ret.is_some()) else {
                // The outermost function says no way on.
                return (depth > 0).then_some(function);
            };
            if rule.base == Base::Frame && at.bp.is_none() {
                at.bp = self.guess_frame_pointer(pid, at.sp, stack);
            }
            let next = super::step(rule, at, stack)?;
            self.locate(pid, next.pc)?;
            if !follows_a_call(pid, next.pc) {
                return None;
            }
            let call = next.pc.checked_sub(4)?;
            let word = u32::from_le_bytes(*caller::read(pid, call, 4).ok()?.first_chunk()?);
            if let Some(target) = arch::call_target(call, word) {
                // A target in a linkage table is no function's beginning, and names nobody.
                let is_here = self.entry(pid, at.pc.checked_sub(1)?) == Some(target);
                if !is_here && self.entry(pid, target) == Some(target) {
                    return None;
                }
            }
            at = next;
        }
        Some(function)
    }
}

/// A word of a process.
fn word_of(pid: i32, at: u64) -> Option<u64> {
    let bytes = caller::read(pid, at, 8).ok()?;
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}
