//! `ping`: answers at once, and touches nothing. In seed 004 the answer was a message `pong`; here it is a
//! line of output, so that every reply method can keep it.

use async_trait::async_trait;
use mainstay_core::envelope::{Request, Stream};
use mainstay_core::outcome::{Exit, Outcome};

use super::{Call, Method};

pub struct Ping;

#[async_trait]
impl Method for Ping {
    fn name(&self) -> &'static str {
        "ping"
    }

    fn acts(&self) -> bool {
        false
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        if request.args.is_empty() && request.data.is_empty() {
            Ok(())
        } else {
            Err("ping takes neither arguments nor data".to_owned())
        }
    }

    async fn run(&self, call: &mut Call) -> Outcome {
        call.output.write(Stream::Stdout, b"pong\n").await;
        Outcome::Finished(Exit::Code(0))
    }
}
