//! VMAs: those that a process makes, and those that it inherits.

use std::collections::{BTreeMap, BTreeSet};

use super::{LowerError, Lowering};
use crate::litmus::ast::{self, Op};
use crate::litmus::span::Span;
use crate::litmus::symbols::NameKind;
use crate::units::{ActorId, BufId, VmaId};

impl<'a> Lowering<'a> {
    /// Room for every VMA that a process makes or inherits, parents before children.
    pub(super) fn areas(&mut self) -> Result<(), LowerError> {
        self.areas = vec![(VmaId::NONE, 0); self.variant.processes.len()];
        let mut parents: BTreeMap<usize, usize> = BTreeMap::new();
        for process in &self.variant.processes {
            for statement in &process.statements {
                if let Op::Fork { child } = &statement.op
                    && parents.insert(child.index, process.index).is_some()
                {
                    let message =
                        format!("P{} is forked twice; a child has one parent", child.index);
                    return Err(LowerError::new(message, statement.span));
                }
            }
        }
        for parent in parents.values_mut() {
            *parent = self.leader(*parent);
        }
        let mut done: BTreeSet<usize> = (0..self.variant.processes.len())
            .filter(|index| self.leader(*index) != *index)
            .collect();
        while done.len() < self.variant.processes.len() {
            let ready = (0..self.variant.processes.len()).find(|index| {
                !done.contains(index)
                    && parents.get(index).is_none_or(|parent| done.contains(parent))
            });
            let Some(index) = ready else {
                let span = self.variant.processes.first().map(|p| p.span).unwrap_or_default();
                return Err(LowerError::new("processes fork each other in a circle", span));
            };
            self.process_areas(index, parents.get(&index).copied())?;
            done.insert(index);
        }
        for index in 0..self.areas.len() {
            self.areas[index] = self.areas[self.leader(index)];
        }
        Ok(())
    }

    fn process_areas(&mut self, index: usize, parent: Option<usize>) -> Result<(), LowerError> {
        let first = self.names.vmas.len();
        if let Some(parent) = parent {
            let inherited: Vec<(&'a str, VmaId)> = self
                .vmas
                .iter()
                .filter(|((process, _), _)| *process == parent)
                .map(|((_, name), vma)| (*name, *vma))
                .collect();
            let mut inherited = inherited;
            inherited.sort_by_key(|(_, vma)| *vma);
            for (name, vma) in inherited {
                let (pages, buf, private) = self.world.vma_shape(vma);
                self.add_vma(index, name, pages, buf, private, self.variant.processes[index].span)?;
            }
        }
        let variant = self.variant;
        let threads = variant
            .processes
            .iter()
            .filter(|one| self.world.mm(ActorId::at(one.index)) == ActorId::at(index));
        let statements: Vec<&'a ast::Statement> = threads.flat_map(|one| &one.statements).collect();
        for statement in statements {
            let Some((name, NameKind::Mapping)) = statement.op.defined() else { continue };
            let (pages, buf, private) = self.shape(index, &statement.op, name)?;
            self.add_vma(index, name.as_str(), pages, buf, private, statement.span)?;
        }
        let count = self.names.vmas.len() - first;
        let first = if count == 0 { VmaId::NONE } else { VmaId::at(first) };
        self.areas[index] = (first, u8::try_from(count).unwrap_or(u8::MAX));
        Ok(())
    }

    /// How many pages, of what, and whether private.
    fn shape(
        &self,
        index: usize,
        op: &Op,
        name: &ast::Name,
    ) -> Result<(u8, BufId, bool), LowerError> {
        if let Op::Mmap { buffer, sharing, pages, offset, .. } = op {
            let whole = self.pages(buffer).saturating_sub(offset.unwrap_or(0));
            let private = *sharing == ast::Sharing::Private;
            Ok((pages.unwrap_or(whole).max(1), self.buf(buffer)?, private))
        } else if let Op::MmapAnon { pages, .. } = op {
            Ok((pages.unwrap_or(1), BufId::NONE, true))
        } else if let Op::Mremap { old, .. } = op {
            Ok(self.world.vma_shape(self.vma(index, old)?))
        } else {
            Err(Self::unknown("mapping", name))
        }
    }

    fn add_vma(
        &mut self,
        process: usize,
        name: &'a str,
        pages: u8,
        buf: BufId,
        private: bool,
        span: Span,
    ) -> Result<(), LowerError> {
        let vma = self
            .world
            .add_vma(ActorId::at(process), pages, buf, private)
            .map_err(|error| LowerError::too_many(&error, span))?;
        self.vmas.insert((process, name), vma);
        self.names.vmas.push(name.to_owned());
        Ok(())
    }
}
