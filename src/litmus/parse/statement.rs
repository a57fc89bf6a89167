//! The statements of a process.

use super::super::ast::{
    AttachMode, FenceUsage, GupFlags, LockAccess, Name, Op, PageRef, ProcessRef, Protection,
    Sharing, Statement, SyncAccess, SyncPhase,
};
use super::super::diag::Problem;
use super::super::lex::{Bracket, Kind};
use super::super::statements::{self, Keyword};
use super::super::{BUFFER_PAGES_MAX, FRAME_VECTOR_MAX, LOCKS_MAX};
use super::{Parser, Result};

impl Parser<'_> {
    /// `[LABEL:] STATEMENT`
    pub(super) fn statement(&mut self) -> Result<Statement> {
        let start = self.at;
        let mut label = None;
        if self.peek() == Some(Kind::Word) && self.peek_at(1) == Some(Kind::Colon) {
            label = Some(self.new_name("a label")?);
            self.advance();
        }
        let op = self.op()?;
        Ok(Statement { label, op, span: self.since(start) })
    }

    #[expect(clippy::too_many_lines, reason = "one arm a statement, nothing to share")]
    fn op(&mut self) -> Result<Op> {
        let word = self.word();
        let Some(spec) = statements::find(word) else {
            let message = match word {
                "" => format!("expected a statement, found {}", self.found()),
                word => format!("unknown statement `{word}`"),
            };
            let problem = Problem::new(self.here(), message);
            return self.fail(problem.suggest(word, statements::WORDS, "statements"));
        };
        self.advance();
        const MAPPING_PAGE: &str = "a page of a mapping";
        const TARGET: &str = "a page of a pin, pfn cache, frame vector or sg_table";
        const ATTACHMENT: &str = "an attachment";
        const TABLE: &str = "an sg_table";
        const BUFFER: &str = "a buffer";
        Ok(match spec.keyword {
            Keyword::Mmap => return self.mmap(),
            Keyword::Munmap => return self.munmap(),
            Keyword::Mremap => {
                Op::Mremap { new: self.defined("a mapping")?, old: self.name("a mapping")? }
            }
            Keyword::Mprotect => return self.mprotect(),
            Keyword::Store => {
                let to = self.place(MAPPING_PAGE)?;
                Op::Store { to, value: self.byte_behind_equal()? }
            }
            Keyword::Load => {
                Op::Load { register: self.defined("a register")?, from: self.place(MAPPING_PAGE)? }
            }
            Keyword::Gup => {
                let (pin, at) = (self.defined("a pin")?, self.place(MAPPING_PAGE)?);
                Op::Gup { pin, at, flags: self.gup_flags()? }
            }
            Keyword::Unpin => Op::Unpin { pin: self.name("a pin")? },
            Keyword::FollowPfn => return self.follow_pfn(),
            Keyword::FrameVector => return self.frame_vector(),
            Keyword::Attach => return self.attach(),
            Keyword::Detach => Op::Detach { attachment: self.name(ATTACHMENT)? },
            Keyword::Map => {
                Op::Map { table: self.defined(TABLE)?, attachment: self.name(ATTACHMENT)? }
            }
            Keyword::Unmap => Op::Unmap { table: self.name(TABLE)? },
            Keyword::Submit => Op::Submit {
                fence: self.defined("a fence")?,
                table: self.name(TABLE)?,
                usage: self.choice("a fence usage", FenceUsage::WORDS, FenceUsage::from_word)?,
            },
            Keyword::Signal => Op::Signal { fence: self.name("a fence")? },
            Keyword::DmaRead => {
                Op::DmaRead { register: self.defined("a register")?, from: self.place(TARGET)? }
            }
            Keyword::DmaWrite => {
                let to = self.place(TARGET)?;
                Op::DmaWrite { to, value: self.byte_behind_equal()? }
            }
            Keyword::Prefetch => Op::Prefetch { at: self.place(TARGET)? },
            Keyword::FlushTlb => Op::FlushTlb { table: self.name(TABLE)? },
            Keyword::DmaBufPin => Op::DmaBufPin { attachment: self.name(ATTACHMENT)? },
            Keyword::DmaBufUnpin => Op::DmaBufUnpin { attachment: self.name(ATTACHMENT)? },
            Keyword::Sync => Op::Sync {
                phase: self.choice("`start` or `end`", SyncPhase::WORDS, SyncPhase::from_word)?,
                buffer: self.name(BUFFER)?,
                access: self.choice("an access", SyncAccess::WORDS, SyncAccess::from_word)?,
                importer: self.importer_option()?,
            },
            Keyword::Move => {
                let buffer = self.name(BUFFER)?;
                self.expect(Kind::Arrow, "`->`")?;
                Op::Move { buffer, to: self.placement()? }
            }
            Keyword::Purge => Op::Purge { buffer: self.name(BUFFER)? },
            Keyword::Revoke => Op::Revoke { buffer: self.name(BUFFER)? },
            Keyword::Alloc => Op::Alloc { buffer: self.name(BUFFER)? },
            Keyword::Close => Op::Close { buffer: self.name(BUFFER)? },
            Keyword::Fork => Op::Fork { child: self.process_ref()? },
            Keyword::Await => Op::Await { label: self.name("a label, or what a statement makes")? },
            Keyword::Lock => return self.lock(),
            Keyword::Unlock => Op::Unlock { buffers: self.buffers()? },
            Keyword::MmapLock => {
                let process = self.process_ref()?;
                let access =
                    self.choice("`read` or `write`", LockAccess::WORDS, LockAccess::from_word)?;
                Op::MmapLock { process, access }
            }
            Keyword::MmapUnlock => Op::MmapUnlock { process: self.process_ref()? },
            Keyword::EvictCache => Op::EvictCache { at: self.place("a page of a buffer")? },
        })
    }

    /// `lock BUF[, BUF..] [ticket]`
    fn lock(&mut self) -> Result<Op> {
        let buffers = self.buffers()?;
        let ticket = self.eat_word("ticket");
        if self.peek() == Some(Kind::Word) {
            return self.unknown_option(&["ticket"]);
        }
        Ok(Op::Lock { buffers, ticket })
    }

    /// `BUF[, BUF..]`
    fn buffers(&mut self) -> Result<Vec<Name>> {
        let start = self.here();
        let mut buffers = vec![self.name("a buffer")?];
        while self.accept(Kind::Comma) {
            let here = self.here();
            let buffer = self.name("a buffer")?;
            if buffers.iter().any(|other| other.text == buffer.text) {
                let message = format!("`{}` is named twice", buffer.text);
                return self.fail(Problem::new(here, message));
            }
            buffers.push(buffer);
        }
        if buffers.len() > LOCKS_MAX {
            let message = format!("at most {LOCKS_MAX} buffers are locked at once");
            return self.fail(Problem::new(start, message));
        }
        Ok(buffers)
    }

    /// `Pn`
    pub(super) fn process_ref(&mut self) -> Result<ProcessRef> {
        let (index, span) = self.process_number()?;
        Ok(ProcessRef { index, span })
    }

    /// `munmap V`, or of one page: `munmap V[i]`
    fn munmap(&mut self) -> Result<Op> {
        Ok(if self.peek_at(1) == Some(Kind::Open(Bracket::Square)) {
            Op::MunmapPage { at: self.place("a page of a mapping")? }
        } else {
            Op::Munmap { mapping: self.name("a mapping")? }
        })
    }

    /// `mprotect V r|rw`
    fn mprotect(&mut self) -> Result<Op> {
        let mapping = self.name("a mapping")?;
        let span = self.here();
        let protection = self.choice("a protection", Protection::WORDS, Protection::from_word)?;
        if protection == Protection::Write {
            return self.fail(Problem::new(span, "a mapping is protected `r` or `rw`"));
        }
        Ok(Op::Mprotect { mapping, protection })
    }

    /// `mmap V = BUF SHARING PROT [importer NAME|node] [pages=N] [offset=N]`, or of `anon`.
    fn mmap(&mut self) -> Result<Op> {
        let mapping = self.defined("a mapping")?;
        let buffer = self.name("a buffer or `anon`")?;
        let sharing_span = self.here();
        let sharing = self.choice("`shared` or `private`", Sharing::WORDS, Sharing::from_word)?;
        let protection_span = self.here();
        let protection = self.choice("a protection", Protection::WORDS, Protection::from_word)?;
        if buffer.as_str() == "anon" {
            if sharing == Sharing::Shared {
                let problem = Problem::new(sharing_span, "anonymous memory is mapped `private`");
                return self.fail(problem);
            }
            if protection == Protection::Write {
                let problem =
                    Problem::new(protection_span, "anonymous memory is mapped `r` or `rw`");
                return self.fail(problem);
            }
            let mut pages = None;
            while self.peek() == Some(Kind::Word) {
                self.size_option("pages", 1, &mut pages, &["pages"])?;
            }
            return Ok(Op::MmapAnon { mapping, protection, pages });
        }
        let options: &[&str] = &["importer", "node", "pages", "offset"];
        let (mut importer, mut node, mut pages, mut offset) = (None, false, None, None);
        while self.peek() == Some(Kind::Word) {
            match self.word() {
                "importer" | "node" if node || importer.is_some() => {
                    let message = "a mapping goes through one file: `importer NAME` or `node`";
                    return self.fail(Problem::new(self.here(), message));
                }
                "importer" => importer = self.importer_option()?,
                "node" => node = self.eat_word("node"),
                "offset" => self.size_option("offset", 0, &mut offset, options)?,
                _ => self.size_option("pages", 1, &mut pages, options)?,
            }
        }
        Ok(Op::Mmap { mapping, buffer, sharing, protection, importer, node, pages, offset })
    }

    /// `WORD=N`, at most once.
    fn size_option(
        &mut self,
        word: &str,
        min: u8,
        value: &mut Option<u8>,
        options: &[&str],
    ) -> Result<()> {
        if self.word() != word || value.is_some() {
            return self.unknown_option(options);
        }
        self.advance();
        self.expect(Kind::Equal, "`=`")?;
        *value = Some(self.small(&format!("`{word}`"), min, BUFFER_PAGES_MAX - 1 + min)?);
        Ok(())
    }

    fn unknown_option<T>(&mut self, options: &[&str]) -> Result<T> {
        let word = self.word();
        if options.contains(&word) {
            let problem = Problem::new(self.here(), format!("`{word}` is given twice"));
            return self.fail(problem);
        }
        let problem = Problem::new(self.here(), format!("unknown option `{word}`"));
        self.fail(problem.suggest(word, options, "options here"))
    }

    /// `[importer NAME]`
    fn importer_option(&mut self) -> Result<Option<Name>> {
        if self.eat_word("importer") { Ok(Some(self.name("an importer")?)) } else { Ok(None) }
    }

    /// `follow_pfn Q = V[i] [notifier]`
    fn follow_pfn(&mut self) -> Result<Op> {
        let cache = self.defined("a pfn cache")?;
        let at = self.place("a page of a mapping")?;
        let notifier = self.eat_word("notifier");
        if self.peek() == Some(Kind::Word) {
            return self.unknown_option(&["notifier"]);
        }
        Ok(Op::FollowPfn { cache, at, notifier })
    }

    /// `frame_vector F = V[i], W[j].. FLAGS`
    fn frame_vector(&mut self) -> Result<Op> {
        let vector = self.defined("a frame vector")?;
        let start = self.here();
        let mut at = vec![self.place("a page of a mapping")?];
        while self.accept(Kind::Comma) {
            at.push(self.place("a page of a mapping")?);
        }
        if at.len() > FRAME_VECTOR_MAX {
            let message = format!("a frame vector has at most {FRAME_VECTOR_MAX} pages");
            return self.fail(Problem::new(start, message));
        }
        Ok(Op::FrameVector { vector, at, flags: self.gup_flags()? })
    }

    /// `[write] [force] [longterm|get]`, in any order.
    fn gup_flags(&mut self) -> Result<GupFlags> {
        const FLAGS: &[&str] = &["write", "force", "longterm", "get"];
        let mut flags = GupFlags::default();
        while self.peek() == Some(Kind::Word) {
            let flag = match self.word() {
                "write" => &mut flags.write,
                "force" => &mut flags.force,
                "longterm" => &mut flags.longterm,
                "get" => &mut flags.get,
                _ => return self.unknown_option(FLAGS),
            };
            if *flag {
                return self.unknown_option(FLAGS);
            }
            *flag = true;
            if flags.longterm && flags.get {
                let message = "`longterm` is for a pin: `get` takes a reference alone";
                return self.fail(Problem::new(self.here(), message));
            }
            self.advance();
        }
        Ok(flags)
    }

    /// `attach T = BUF [static|dynamic]`, or `attach T = dmabuf_of V`
    fn attach(&mut self) -> Result<Op> {
        let attachment = self.defined("an attachment")?;
        if self.eat_word("dmabuf_of") {
            return Ok(Op::AttachDmabufOf { attachment, mapping: self.name("a mapping")? });
        }
        let buffer = self.name("a buffer or `dmabuf_of`")?;
        let mut mode = None;
        if self.peek() == Some(Kind::Word) {
            mode = AttachMode::from_word(self.word());
            if mode.is_none() {
                return self.unknown_option(AttachMode::WORDS);
            }
            self.advance();
        }
        Ok(Op::Attach { attachment, buffer, mode })
    }

    /// `NAME =`, where the statement defines the name.
    fn defined(&mut self, what: &str) -> Result<Name> {
        let name = self.new_name(what)?;
        self.expect(Kind::Equal, "`=`")?;
        Ok(name)
    }

    /// `NAME[PAGE]`
    fn place(&mut self, what: &str) -> Result<PageRef> {
        let start = self.at;
        let name = self.name(what)?;
        self.expect(Kind::Open(Bracket::Square), "`[` and a page")?;
        let page = self.page()?;
        Ok(PageRef { name, page, span: self.since(start) })
    }

    /// `PAGE]`
    pub(super) fn page(&mut self) -> Result<u8> {
        let page = self.small("a page", 0, BUFFER_PAGES_MAX - 1)?;
        self.expect(Kind::Close(Bracket::Square), "`]`")?;
        Ok(page)
    }

    fn byte_behind_equal(&mut self) -> Result<u8> {
        self.expect(Kind::Equal, "`=`")?;
        self.small("a byte", 0, u8::MAX)
    }
}
