//! Who is connected to this node, and the way to tell a connection something.

mod handle;
mod table;

pub use handle::{Handle, Mailbox};
pub use table::{Registered, Table};
