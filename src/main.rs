//! The moorline binary: allocator, runtime, exit code. Everything else is in the library.

use std::process::ExitCode;

/// Gives memory back to the system after a storm of connections; its settings (background thread,
/// short decay) are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(moorline::cli::run());
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context("the runtime cannot start")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = moorline::cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
