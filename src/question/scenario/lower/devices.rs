//! Pins, attachments, `sg_table`s and fences.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each pass looks at the few statements that concern it"
)]

use super::super::program::Device;
use super::{LowerError, Lowering};
use crate::litmus::ast::{self, Op, Role};
use crate::litmus::span::Span;
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
        match &statement.op {
            Op::Gup { pin, .. } => {
                let notifier = self.notifier(process, pin)?;
                self.add_pins(notifier, pin, 1, false, span)
            }
            Op::FollowPfn { cache, notifier, .. } => {
                let of_driver = self.notifier(process, cache)?;
                let unsaid = *notifier && of_driver == Notifier::None;
                let notifier = if unsaid { Notifier::Wait } else { of_driver };
                self.add_pins(notifier, cache, 1, false, span)
            }
            Op::FrameVector { vector, at, .. } => {
                let notifier = self.notifier(process, vector)?;
                self.add_pins(notifier, vector, u8::try_from(at.len()).unwrap_or(8), true, span)
            }
            Op::Attach { attachment, .. } | Op::AttachDmabufOf { attachment, .. } => {
                let id = self
                    .world
                    .add_attachment(self.importer_of(process)?)
                    .map_err(|error| LowerError::too_many(&error, span))?;
                self.devices.insert(attachment.as_str(), Device::Attachment(id));
                self.names.attachments.push(attachment.text.clone());
                Ok(())
            }
            Op::Submit { fence, .. } => {
                let id =
                    self.world.add_fence().map_err(|error| LowerError::too_many(&error, span))?;
                self.devices.insert(fence.as_str(), Device::Fence(id));
                self.names.fences.push(fence.text.clone());
                Ok(())
            }
            _ => Ok(()),
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
        let uses = |process: &&ast::Process| {
            process.statements.iter().any(|statement| match &statement.op {
                Op::DmaRead { from: at, .. }
                | Op::DmaWrite { to: at, .. }
                | Op::Prefetch { at } => at.name.text == name.text,
                _ => false,
            })
        };
        let user = if matches!(process.role, Role::Device(_)) {
            Some(process)
        } else {
            self.variant.processes.iter().find(uses)
        };
        let Some(user) = user else { return Ok(Notifier::None) };
        Ok(self.world.importer(self.importer_of(user)?).notifier)
    }
}
