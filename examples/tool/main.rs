//! A configuration tool of one's own: three hosts, a module that only this program has, and what each host shall be.
//!
//! ```console
//! $ examples/tool/hosts up        # three real sshd on this machine
//! $ cargo run -p example-tool -- plan --ssh-config /tmp/mainstay-example/ssh_config
//! $ cargo run -p example-tool -- up --ssh-config /tmp/mainstay-example/ssh_config
//! $ cargo run -p example-tool -- run --ssh-config /tmp/mainstay-example/ssh_config 'ls /tmp/mainstay-example/*/people'
//! $ examples/tool/hosts down
//! ```

use std::path::PathBuf;

use mainstay::module::host::Ownership;
use mainstay::module::{About, Analysis, Analyze, Applied, Apply, Failure, Module};
use mainstay::state::plan::{Change, Datum};
use mainstay::tool::{Tool, json};

struct Greeting;

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The file that holds the greeting.
    path: PathBuf,
    /// Who is greeted.
    who: String,
}

impl Module for Greeting {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "greeting", summary: "A file that greets somebody.", ..About::default() }
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let greeting = format!("Hello, {}!\n", params.who);
        let is_there = cx.view.read(&params.path)?.is_some_and(|text| text == greeting.as_bytes());
        let change = || Change::new("greeting", Datum::Absent, Datum::known(greeting));
        Ok(Analysis::of((!is_there).then(change).into_iter().collect()))
    }

    fn apply(&self, params: &Params, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let greeting = format!("Hello, {}!\n", params.who);
        cx.host.write(&params.path, greeting.as_bytes(), Ownership::default())?;
        Ok(Applied::default())
    }
}

fn main() -> std::process::ExitCode {
    let place = std::env::var("EXAMPLE_DIR").unwrap_or("/tmp/mainstay-example".into());
    Tool::new(move |host, states| {
        let home = format!("{place}/{}/people", host.name);
        states.add("people", "directory", json!({"path": home, "mode": "0755"}));
        for who in host.list("people") {
            let path = format!("{home}/{who}");
            states.add(who, "greeting", json!({"path": path, "who": who})).require("people");
        }
        if host.is_in("web") && host.fact("family") == "debian" {
            let run = format!("echo web >> {home}/../role");
            states.add("role", "cmd", json!({"run": run})).onchanges("people");
        }
    })
    .module(Greeting)
    .host("web1", "web1")
    .host("web2", "web2")
    .host("db1", "db1")
    .group("web", &["web*"])
    .group_property("web", "people", json!(["ann", "bob"]))
    .property("db1", "people", json!(["carl"]))
    .main()
}
