//! Call stacks of threads that wait for us.
//!
//! A thread that sleeps in a trapped call or in a page fault shows its stack pointer and program
//! counter in /proc/TID/syscall; no ptrace is needed. From there the stack is unwound by the call
//! frame information of the files that the process maps (`.eh_frame`, which compilers write with
//! and without `-g`). The first frames of a call through libc count from rsp alone, so that the
//! unknown frame pointer is rarely in the way; where it is, the stack is searched for an address behind a
//! call instruction of the program itself.
//!
//! **Differs from Linux**: KASAN's stacks come from inside the faulting context and are complete.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::caller;
use crate::device::Inode;
use crate::device::misuse::{Site, StackFrame, Symbol};
use crate::sys::arch;

mod leaf;
mod module;

use crate::device::maps::{Mapping, mappings};
use module::{Base, Module, Rule, Saved};

/// Most frames of a stack.
const FRAMES_MAX: usize = 16;

/// Bytes of a stack that are searched or unwound through.
const STACK_BYTES_MAX: usize = 16 * 1024;

/// Most processes whose mappings are remembered; more and all are read anew.
const PROCESSES_MAX: usize = 256;

/// Most stacks that are remembered; more and all are unwound anew.
const KNOWN_MAX: usize = 1024;

/// Most files whose tables and symbols are remembered; more and all are read anew.
const MODULES_MAX: usize = 32;

/// Registers of a thread, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registers {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: Option<u64>,
    /// Return address of a function that has not put it on the stack, where a register holds it.
    pub link: Option<u64>,
}

impl Registers {
    /// Of a thread that sleeps in a system call or a page fault: the last two fields of
    /// /proc/TID/syscall. `None` while it runs, or if it is gone.
    pub fn of_sleeper(tid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let mut fields = text.split_ascii_whitespace().rev();
        let (pc, sp) = (hex(fields.next()?)?, hex(fields.next()?)?);
        Some(Self { pc, sp, ..Self::default() })
    }
}

/// The code of one process.
#[derive(Debug)]
struct Image {
    /// Its executable: another one after exec.
    exe: Option<PathBuf>,
    code: Vec<Mapping>,
}

impl Image {
    /// Whether it is code of the program itself. By path: on an overlay, stat and /proc/PID/maps
    /// may disagree about the inode.
    fn is_own(&self, code: &Mapping) -> bool {
        self.exe.as_ref().is_some_and(|exe| exe.as_os_str() == code.path.as_str())
    }
}

/// A stack that was unwound, and the words on it that decided how.
#[derive(Debug)]
struct Known {
    words: Vec<(u64, u64)>,
    frames: Vec<StackFrame>,
}

/// Reads the stacks of threads and knows the files that their code comes from.
#[derive(Debug, Default)]
pub struct Stacks {
    images: BTreeMap<i32, Image>,
    modules: BTreeMap<(Inode, bool), Module>,
    /// Stacks unwound before, by process and registers.
    known: BTreeMap<(i32, Registers), Known>,
    /// Where the calls of a function return to, by process and the function's first address.
    calls: BTreeMap<(i32, u64), Vec<u64>>,
    /// Threads and their processes.
    threads: BTreeMap<i32, i32>,
    started_ns: u64,
}

/// A copy of the upper end of a stack, which remembers what was looked at.
struct Memory {
    start: u64,
    bytes: Vec<u8>,
    seen: RefCell<Vec<(u64, u64)>>,
}

impl Memory {
    fn new(start: u64, bytes: Vec<u8>) -> Self {
        Self { start, bytes, seen: RefCell::default() }
    }

    fn word(&self, addr: u64) -> Option<u64> {
        let word = self.peek(addr)?;
        self.seen.borrow_mut().push((addr, word));
        Some(word)
    }

    fn peek(&self, addr: u64) -> Option<u64> {
        let at = usize::try_from(addr.checked_sub(self.start)?).ok()?;
        self.bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// The words from `sp` up, with their addresses.
    fn words(&self, sp: u64) -> impl Iterator<Item = (u64, u64)> {
        let at =
            (0..STACK_BYTES_MAX as u64).step_by(8).map(move |offset| sp.saturating_add(offset));
        at.map_while(|at| Some((at, self.word(at)?)))
    }
}

impl Stacks {
    /// Counts time from `started_ns`.
    pub fn new(started_ns: u64) -> Self {
        Self { started_ns, ..Self::default() }
    }

    /// The process that a thread belongs to; /proc/TID/status takes as long as a system call that is
    /// handed over.
    pub fn tgid(&mut self, tid: i32) -> Option<i32> {
        if let Some(&pid) = self.threads.get(&tid)
            && rustix::fs::access(format!("/proc/{pid}/task/{tid}"), rustix::fs::Access::EXISTS)
                .is_ok()
        {
            return Some(pid);
        }
        let pid = caller::tgid(tid)?;
        if self.threads.len() >= PROCESSES_MAX * 4 {
            self.threads.clear();
        }
        self.threads.insert(tid, pid);
        Some(pid)
    }

    /// A moment, counted from the start.
    pub fn since_start(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.started_ns)
    }

    /// Where a thread is that sleeps in a call or a fault.
    pub fn site(&mut self, tid: i32, now_ns: u64) -> Site {
        self.site_at(tid, Registers::of_sleeper(tid), now_ns)
    }

    /// Where a thread with these registers is.
    pub fn site_at(&mut self, tid: i32, registers: Option<Registers>, now_ns: u64) -> Site {
        let pid = self.tgid(tid).unwrap_or(tid);
        // A name may be any bytes.
        let comm = std::fs::read(format!("/proc/{tid}/comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm);
        let frames = registers.map_or_else(Vec::new, |registers| self.unwind(pid, registers));
        let at_ns = self.since_start(now_ns);
        Site { pid, tid, comm: comm.trim_end().to_owned(), at_ns, frames }
    }

    /// The stack of a thread. A program makes the same calls from the same places: where all words
    /// that were looked at then are the same now, so is the stack.
    fn unwind(&mut self, pid: i32, at: Registers) -> Vec<StackFrame> {
        let stack = Memory::new(at.sp, read_up(pid, at.sp));
        let key = (pid, at);
        if let Some(known) = self.known.get(&key)
            && known.words.iter().all(|&(addr, word)| stack.peek(addr) == Some(word))
            && self.is_current(pid)
        {
            return known.frames.clone();
        }
        let frames = self.unwind_anew(pid, at, &stack);
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let words = stack.seen.into_inner();
        self.known.insert(key, Known { words, frames: frames.clone() });
        frames
    }

    /// Whether a process still executes the program that its code was read from.
    fn is_current(&self, pid: i32) -> bool {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        self.images.get(&pid).is_some_and(|image| image.exe == exe)
    }

    fn unwind_anew(&mut self, pid: i32, mut at: Registers, stack: &Memory) -> Vec<StackFrame> {
        let mut frames: Vec<StackFrame> = Vec::new();
        while frames.len() < FRAMES_MAX {
            let returns = !frames.is_empty();
            let Some((here, rule)) = self.frames(pid, at.pc, returns) else { break };
            frames.extend(here);
            let Some(rule) = rule else { break };
            if rule.base == Base::Frame && at.bp.is_none() {
                at.bp = self.guess_frame_pointer(pid, at.sp, stack);
            }
            if rule.ret.is_none() && at.link.is_none() {
                let Some(caller) = self.caller_of_leaf(pid, at, rule, stack) else { break };
                at.link = Some(caller.ret);
                if !caller.exact {
                    frames.extend(self.frames_of_caller(pid, caller).unwrap_or_default());
                    let Some(next) = step(rule, at, stack) else { break };
                    let Some((_, Some(rule))) = self.frames(pid, next.pc, true) else { break };
                    at = next;
                    if rule.base == Base::Frame {
                        at.bp = self.guess_frame_pointer(pid, at.sp, stack);
                    }
                    let Some(next) = step(rule, at, stack) else { break };
                    at = next;
                    continue;
                }
            }
            let Some(next) = step(rule, at, stack) else { break };
            at = next;
        }
        if !frames.iter().any(|frame| frame.symbol.own) {
            frames.extend(self.search(pid, at, stack));
        }
        frames
    }

    /// What is at `pc`, and how to go on from there.
    fn frames(
        &mut self,
        pid: i32,
        pc: u64,
        returns: bool,
    ) -> Option<(Vec<StackFrame>, Option<Rule>)> {
        let Some((module, address)) = self.locate(pid, pc) else {
            return self.generated(pid, pc).map(|frame| (vec![frame], None));
        };
        let symbols = module.symbols(address, returns);
        let rule = module.rule(address - u64::from(returns && address > 0));
        Some((symbols.into_iter().map(|symbol| StackFrame { pc, symbol }).collect(), rule))
    }

    /// The module that an address of a process lies in, and the address within it.
    fn locate(&mut self, pid: i32, pc: u64) -> Option<(&mut Module, u64)> {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let known = self.images.get(&pid).is_some_and(|image| {
            image.exe == exe && image.code.iter().any(|code| code.contains(pc))
        });
        if !known {
            if self.images.len() >= PROCESSES_MAX {
                self.images.clear();
            }
            let code = mappings(pid).into_iter().filter(Mapping::is_code).collect();
            self.calls.retain(|&(of, _), _| of != pid);
            self.images.insert(pid, Image { exe, code });
        }
        let image = self.images.get(&pid)?;
        let code = image.code.iter().find(|code| code.contains(pc))?;
        let own = image.is_own(code);
        if self.modules.len() >= MODULES_MAX && !self.modules.contains_key(&(code.inode, own)) {
            self.modules.clear();
        }
        let module = self.modules.entry((code.inode, own)).or_insert_with(|| {
            let mut candidates = vec![
                PathBuf::from(format!("/proc/{pid}/root{}", code.path)),
                PathBuf::from(&code.path),
            ];
            if own {
                candidates.insert(0, PathBuf::from(format!("/proc/{pid}/exe")));
            }
            Module::open(&code.path, &candidates, own)
        });
        let address = module.address((pc - code.start).checked_add(code.offset)?)?;
        Some((module, address))
    }

    /// What is known of code that no file tells about.
    fn generated(&self, pid: i32, pc: u64) -> Option<StackFrame> {
        let code = self.images.get(&pid)?.code.iter().find(|code| code.contains(pc))?;
        let offset = pc - code.start;
        let symbol = Symbol { module: code.name(), offset, ..Symbol::default() };
        Some(StackFrame { pc, symbol: symbol.into() })
    }

    /// The first address that a call of the program itself returns to: in the register for it, or on the
    /// stack.
    fn search(&mut self, pid: i32, at: Registers, stack: &Memory) -> Vec<StackFrame> {
        let Some(image) = self.images.get(&pid) else { return Vec::new() };
        let own =
            |word: u64| image.code.iter().any(|code| code.contains(word) && image.is_own(code));
        let words = at.link.into_iter().chain(stack.words(at.sp).map(|(_, word)| word));
        let mut found = words.map(arch::return_address).filter(|&word| own(word)).take(64);
        let pc = found.find(|&word| follows_a_call(pid, word));
        pc.and_then(|pc| self.frames(pid, pc, true)).map_or_else(Vec::new, |(frames, _)| frames)
    }

    /// Where a function that uses a frame pointer has saved its caller's: the first place that
    /// holds an address further up the stack and, behind it, one that follows a call.
    fn guess_frame_pointer(&self, pid: i32, sp: u64, stack: &Memory) -> Option<u64> {
        let image = self.images.get(&pid)?;
        let code = |word: u64| image.code.iter().any(|code| code.contains(word));
        let frame = |&(at, saved): &(u64, u64)| {
            let above = saved > at && saved - at <= STACK_BYTES_MAX as u64;
            above
                && stack
                    .word(at.saturating_add(8))
                    .map(arch::return_address)
                    .is_some_and(|ret| code(ret) && follows_a_call(pid, ret))
        };
        stack.words(sp).find(frame).map(|(at, _)| at)
    }
}

/// The registers of the caller.
fn step(rule: Rule, at: Registers, stack: &Memory) -> Option<Registers> {
    let base = match rule.base {
        Base::Stack => at.sp,
        Base::Frame => at.bp?,
    };
    let frame_address = base.checked_add_signed(rule.offset)?;
    // A function that calls none may have no frame.
    if frame_address < at.sp || (frame_address == at.sp && rule.ret.is_some()) {
        return None;
    }
    let pc = match rule.ret {
        Some(offset) => stack.word(frame_address.checked_add_signed(offset)?)?,
        None => at.link?,
    };
    let bp = match rule.bp {
        Saved::Same => at.bp,
        Saved::At(offset) => stack.word(frame_address.checked_add_signed(offset)?),
        Saved::Lost => None,
    };
    let pc = arch::return_address(pc);
    Some(Registers { pc, sp: frame_address, bp, link: None })
}

/// Whether the bytes before an address are a call.
fn follows_a_call(pid: i32, addr: u64) -> bool {
    let Some(start) = addr.checked_sub(arch::CALL_BYTES_MAX as u64) else { return false };
    let bytes = caller::read(pid, start, arch::CALL_BYTES_MAX);
    bytes.is_ok_and(|bytes| {
        <&[u8; arch::CALL_BYTES_MAX]>::try_from(&*bytes).is_ok_and(arch::follows_a_call)
    })
}

/// The stack from `sp` upwards, as much of it as is mapped.
fn read_up(pid: i32, sp: u64) -> Vec<u8> {
    let page = crate::uapi::page_size();
    let to_page_end = usize::try_from(page - sp % page).unwrap_or(0);
    let mut len = STACK_BYTES_MAX;
    while len > to_page_end {
        if let Ok(bytes) = caller::read(pid, sp, len) {
            return bytes;
        }
        len /= 2;
    }
    caller::read(pid, sp, to_page_end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syscall_file_is_understood() {
        let in_call = "16 0x3 0xc0184800 0x7ffd 0x0 0x0 0x0 0x7ffdd0 0x7f1234\n";
        let expect = Registers { pc: 0x7f_1234, sp: 0x7f_fdd0, bp: None, link: None };
        assert_eq!(Registers::parse(in_call), Some(expect));
        assert_eq!(Registers::parse("-1 0x7ffdd0 0x7f1234"), Some(expect));
        assert_eq!(Registers::parse("running\n"), None);
        assert_eq!(Registers::parse(""), None);
    }

    #[test]
    fn a_frame_is_left_by_its_rule() {
        let words = [1u64, 2, 3, 0xbeef, 0xcafe, 9];
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let stack = Memory::new(0x1000, bytes);
        let at = Registers { pc: 5, sp: 0x1000, bp: None, link: None };
        let rule = Rule { base: Base::Stack, offset: 0x28, ret: Some(-8), bp: Saved::At(-16) };
        let caller = Registers { pc: 0xcafe, sp: 0x1028, bp: Some(0xbeef), link: None };
        assert_eq!(step(rule, at, &stack), Some(caller));
        // Without rbp there is no way on, and a frame that does not grow is none.
        assert_eq!(step(Rule { base: Base::Frame, ..rule }, at, &stack), None);
        assert_eq!(step(Rule { offset: 0, ..rule }, at, &stack), None);
        // A function that calls none leaves its return address in a register.
        let leaf = Rule { base: Base::Stack, offset: 0, ret: None, bp: Saved::Same };
        assert_eq!(step(leaf, at, &stack), None);
        let at = Registers { link: Some(0xcafe), ..at };
        assert_eq!(step(leaf, at, &stack).map(|caller| caller.pc), Some(0xcafe));
    }
}
