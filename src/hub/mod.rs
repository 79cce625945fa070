//! Who is connected to this node, and the way to tell a connection something.

mod outbox;
mod handle;
mod table;

pub use handle::{Handle, Mailbox, Wish};
pub use outbox::{NotTaken, Outbox};
pub use table::{Registered, Table};
