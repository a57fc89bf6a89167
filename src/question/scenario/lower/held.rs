//! What a process may do with reservations that it has by statements of its own.

use super::LowerError;
use super::statement::Actions;
use crate::litmus::ast;
use crate::model::Step;
use crate::question::scenario::program::Action;
use crate::units::BufId;

/// The reservations that a process has.
#[derive(Debug, Default)]
pub(super) struct Held {
    bufs: Vec<BufId>,
    /// Whether they are under a ticket.
    ticket: bool,
}

impl Held {
    /// Follows a statement.
    ///
    /// # Errors
    /// A ticket is drawn before all that is taken under it, and nothing is taken beside it.
    pub(super) fn keep(
        &mut self,
        actions: &Actions,
        statement: &ast::Statement,
    ) -> Result<(), LowerError> {
        let wrong = |message: &str| Err(LowerError::new(message, statement.span));
        for (action, _) in actions {
            let Action::Step(step) = action else { continue };
            if *step == Step::DrawTicket {
                if !self.bufs.is_empty() {
                    return wrong(
                        "a ticket is drawn with nothing reserved: name all buffers in one \
                         statement, or write `unlock` before it",
                    );
                }
                self.ticket = true;
            } else if let Step::LockAll(bufs) = step {
                self.bufs.extend(bufs.iter());
            } else if let Step::ResvLock(buf) = step {
                if self.ticket {
                    return wrong(
                        "the process has a ticket, and would take a reservation without it: name \
                         all buffers in one statement",
                    );
                }
                self.bufs.push(*buf);
            } else if let Step::ResvUnlock(buf) = step {
                self.bufs.retain(|held| held != buf);
                self.ticket &= !self.bufs.is_empty();
            }
        }
        Ok(())
    }
}
