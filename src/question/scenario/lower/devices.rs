//! Pins, attachments, `sg_table`s and fences.

use super::super::program::Device;
use super::{LowerError, Lowering};
use crate::litmus::ast::{self, Op, Role, Use};
use crate::litmus::span::Span;
use crate::litmus::symbols::NameKind;
use crate::model::{self, Notifier};

impl<'a> Lowering<'a> {
    /// Pins, attachments, sg_tables and fences, in the order in which the file makes them.
    pub(super) fn devices(&mut self) -> Result<(), LowerError> {
        for process in &self.variant.processes {
            for statement in &process.statements {
                self.device(process, statement)
                    .map_err(|error| LowerError { span: statement.span, ..error })?;
            }
        }
        // sg_tables need their attachments, which another process may make.
        for process in &self.variant.processes {
            for statement in &process.statements {
                if let Op::Map { table, attachment } = &statement.op {
                    let id = self.attachment(attachment)?;
                    let sg = self
                        .world
                        .add_sg(id)
                        .map_err(|error| LowerError::too_many(&error, statement.span))?;
                    let handle = Device::Handle(model::Handle::Sg(sg), 8);
                    self.devices.insert(table.as_str(), handle);
                    self.names.sgs.push(table.text.clone());
                }
            }
        }
        Ok(())
    }

    fn device(
        &mut self,
        process: &'a ast::Process,
        statement: &'a ast::Statement,
    ) -> Result<(), LowerError> {
        let span = statement.span;
        let Some((name, kind)) = statement.op.defined() else { return Ok(()) };
        match kind {
            NameKind::Pin => {
                let notifier = self.notifier(process, name)?;
                self.add_pins(notifier, name, 1, false, span)
            }
            NameKind::PfnCache => {
                let of_driver = self.notifier(process, name)?;
                let asked = matches!(statement.op, Op::FollowPfn { notifier: true, .. });
                let unsaid = asked && of_driver == Notifier::None;
                let notifier = if unsaid { Notifier::Wait } else { of_driver };
                self.add_pins(notifier, name, 1, false, span)
            }
            NameKind::FrameVector => {
                let notifier = self.notifier(process, name)?;
                let pages = u8::try_from(statement.op.uses().len()).unwrap_or(8);
                self.add_pins(notifier, name, pages, true, span)
            }
            NameKind::Attachment => {
                let id = self
                    .world
                    .add_attachment(self.importer_of(process)?)
                    .map_err(|error| LowerError::too_many(&error, span))?;
                self.devices.insert(name.as_str(), Device::Attachment(id));
                self.names.attachments.push(name.text.clone());
                Ok(())
            }
            NameKind::Fence => {
                let id =
                    self.world.add_fence().map_err(|error| LowerError::too_many(&error, span))?;
                self.devices.insert(name.as_str(), Device::Fence(id));
                self.names.fences.push(name.text.clone());
                Ok(())
            }
            // Tables are made after the attachments that they are of.
            NameKind::SgTable | NameKind::Mapping | NameKind::Register | NameKind::Label => Ok(()),
        }
    }

    fn add_pins(
        &mut self,
        notifier: Notifier,
        name: &'a ast::Name,
        count: u8,
        vector: bool,
        span: Span,
    ) -> Result<(), LowerError> {
        let mut first = None;
        for index in 0..count {
            let pin = self
                .world
                .add_pin(notifier, vector)
                .map_err(|error| LowerError::too_many(&error, span))?;
            first.get_or_insert(pin);
            let entry =
                if count == 1 { name.text.clone() } else { format!("{}[{index}]", name.text) };
            self.names.pins.push(entry);
        }
        if let Some(first) = first {
            let handle = Device::Handle(model::Handle::Pin(first), count);
            self.devices.insert(name.as_str(), handle);
        }
        Ok(())
    }

    /// What the driver that uses a pin registered on the range: the rule of the device that takes
    /// it, or else of the first device that does DMA through it.
    fn notifier(&self, process: &ast::Process, name: &ast::Name) -> Result<Notifier, LowerError> {
        let uses = |process: &&ast::Process| has_target(process, name);
        let user = if matches!(process.role, Role::Device(_)) {
            Some(process)
        } else {
            self.variant.processes.iter().find(uses)
        };
        let Some(user) = user else { return Ok(Notifier::None) };
        Ok(self.world.importer(self.importer_of(user)?).notifier)
    }
}

/// Whether a transfer of this process's goes through `name`.
pub(super) fn has_target(process: &ast::Process, name: &ast::Name) -> bool {
    let mut uses = process.statements.iter().flat_map(|statement| statement.op.uses());
    uses.any(|used| matches!(used, Use::Target(at) if at.name.text == name.text))
}
