//! `user` and `group`, on the tables of the scratch root.

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::Datum;
use mainstay_module::forecast::{Forecast, Resource};
use serde_json::json;

use crate::world::{State, fields, read, sh, state};

pub const TESTS: &[(&str, fn())] = &[
    ("group_comes_changes_and_goes", group_comes_changes_and_goes),
    ("user_comes_changes_and_goes", user_comes_changes_and_goes),
    ("user_is_planned_in_a_group_to_come", user_is_planned_in_a_group_to_come),
    ("user_joins_the_group_of_its_name", user_joins_the_group_of_its_name),
    ("user_is_in_its_own_group_anyway", user_is_in_its_own_group_anyway),
    ("what_an_earlier_state_takes_away_is_gone", what_an_earlier_state_takes_away_is_gone),
    ("password_hash_is_set_and_not_shown", password_hash_is_set_and_not_shown),
    ("ssh_key_is_written_as_the_user", ssh_key_is_written_as_the_user),
    ("ssh_key_of_a_user_to_come_is_planned", ssh_key_of_a_user_to_come_is_planned),
    ("cron_comes_changes_and_goes", cron_comes_changes_and_goes),
    ("cron_puts_right_what_cron_passes_over", cron_puts_right_what_cron_passes_over),
];

fn group_comes_changes_and_goes() {
    assert_eq!(fields(&state("group", json!({"name": "g1", "gid": 4000})).converge()), ["exists", "gid"]);
    assert_eq!(
        fields(&state("group", json!({"name": "g1", "gid": 4001, "members": ["daemon"]})).converge()),
        ["gid", "members"]
    );
    state("group", json!({"name": "g1", "members": ["bin"], "append": true})).converge();
    assert_eq!(sh("getent group g1"), "g1:x:4001:bin,daemon");
    state("group", json!({"name": "g1", "members": []})).converge();
    state("group", json!({"name": "g2", "system": true})).converge();
    assert!(sh("getent group g2 | cut -d: -f3").parse::<u32>().unwrap() < 1000);
    for name in ["g1", "g2"] {
        state("group", json!({"name": name, "absent": true})).converge();
        state("group", json!({"name": name, "absent": true})).is_settled();
    }
}

fn user_comes_changes_and_goes() {
    sh("groupadd g3 && groupadd g4 && groupadd g5");
    let planned = state(
        "user",
        json!({"name": "u1", "uid": 4100, "comment": "The User", "groups": ["g3", "g4"], "shell": "/bin/sh"}),
    )
    .converge();
    assert_eq!(fields(&planned), ["exists", "uid", "comment", "shell", "groups"]);
    assert_eq!(sh("id -Gn u1; stat -c %U /home/u1"), "u1 g3 g4\nu1");
    state("user", json!({"name": "u1", "groups": ["g5"], "append": true})).converge();
    state("user", json!({"name": "u1", "groups": ["g5"]})).converge();
    assert_eq!(sh("id -Gn u1"), "u1 g5");
    sh("touch /home/u1/kept && chown u1:g4 /home/u1/kept");
    state("user", json!({"name": "u1", "home": "/srv/u1", "move_home": true, "uid": 4101, "group": "g4"}))
        .converge();
    assert_eq!(sh("stat -c '%u %G' /srv/u1/kept"), "4101 g4");
    state("user", json!({"name": "u1", "groups": []})).converge();
    state("user", json!({"name": "u1", "absent": true, "remove_home": true})).converge();
    assert!(!std::path::Path::new("/srv/u1").exists());
    let system = state("user", json!({"name": "u2", "system": true, "shell": "/usr/sbin/nologin"}));
    system.converge();
    assert!(!std::path::Path::new("/home/u2").exists());
    state("user", json!({"name": "u2", "absent": true})).converge();
}

fn user_is_planned_in_a_group_to_come() {
    let user = state("user", json!({"name": "u3", "groups": ["crew"]}));
    let failure = user.foresee(&Forecast::default()).unwrap_err();
    assert!(failure.to_string().contains("there is no group crew"), "{failure}");
    let mut forecast = Forecast::default();
    forecast.predict(Resource::group("crew"), "crew-state".into(), None);
    let planned = user.foresee(&forecast).unwrap();
    assert_eq!(planned.step, StepWord::Change);
    let groups = planned.changes.iter().find(|change| change.field == "groups").unwrap();
    assert_eq!(groups.after, Datum::Predicted { value: json!(["crew"]), by: "crew-state".into() });
}

fn user_joins_the_group_of_its_name() {
    state("group", json!({"name": "u4", "gid": 4200})).converge();
    state("user", json!({"name": "u4"})).converge();
    assert_eq!(sh("id -g u4"), "4200");
    state("user", json!({"name": "u4", "absent": true, "remove_home": true})).converge();
}

fn user_is_in_its_own_group_anyway() {
    sh("groupadd g10");
    state("user", json!({"name": "u10", "groups": ["u10", "g10"]})).converge();
    assert_eq!(sh("id -Gn u10"), "u10 g10");
    assert_eq!(fields(&state("user", json!({"name": "u10", "groups": ["u10"]})).converge()), ["groups"]);
    state("user", json!({"name": "u10", "groups": ["u10"], "append": true})).is_settled();
    // What was a further group becomes its own.
    state("user", json!({"name": "u10", "groups": ["g10"]})).converge();
    state("user", json!({"name": "u10", "group": "g10", "groups": [], "append": true})).converge();
    state("user", json!({"name": "u10", "groups": ["g10"]})).is_settled();
    state("user", json!({"name": "u10", "absent": true, "remove_home": true})).converge();
    sh("groupadd u11");
    state("user", json!({"name": "u11", "groups": ["u11"]})).converge();
    state("user", json!({"name": "u11", "absent": true, "remove_home": true})).converge();
}

fn what_an_earlier_state_takes_away_is_gone() {
    sh("groupadd -g 4310 g6 && useradd -m -u 4300 -U -G g6 u8 && touch /srv/u8 && chown u8:u8 /srv/u8");
    let mut forecast = Forecast::default();
    let mut taking = |module, name: &str| {
        let gone = state(module, json!({"name": name, "absent": true}));
        let planned = gone.foresee(&forecast).unwrap();
        for (resource, value) in planned.predicts {
            forecast.predict(resource, "gone".into(), value);
        }
        gone
    };
    let gone = [taking("user", "u8"), taking("group", "g6")];
    // The tool takes a group along that nobody else is in.
    let along = state("group", json!({"name": "u8", "absent": true}));
    // Each state, and what its plan says: the fields that change, or why it cannot be done.
    let states = [
        (state("user", json!({"name": "u9", "uid": 4300})), "exists uid"),
        (state("user", json!({"name": "u9", "groups": ["g6"]})), "plan user u9: there is no group g6"),
        (state("user", json!({"name": "u8", "uid": 4300, "groups": []})), "exists uid"),
        (state("group", json!({"name": "g7", "gid": 4310})), "exists gid"),
        (state("group", json!({"name": "g6", "members": ["bin"]})), "exists members"),
        (state("group", json!({"name": "bin", "members": ["u8"]})), "plan group bin: there is no user u8"),
        (state("ssh_key", json!({"user": "u8", "key": KEY})), "plan ssh_key of u8: there is no user u8"),
        (state("ssh_key", json!({"user": "u8", "key": KEY, "absent": true})), ""),
        (
            state("cron", json!({"name": "u8", "user": "u8", "schedule": "@daily", "command": "true"})),
            "plan cron u8: there is no user u8",
        ),
        (state("file", json!({"path": "/srv/u8", "owner": "u8"})), "look up user u8: there is no such user"),
        (
            state("file", json!({"path": "/srv/new", "group": "g6"})),
            "look up group g6: there is no such group",
        ),
        (state("file", json!({"path": "/srv/u8", "owner": 4300, "group": "bin"})), "group"),
    ];
    let told = |state: &State, forecast: &Forecast| match state.foresee(forecast) {
        Ok(analysis) => (fields(&analysis).join(" "), analysis.changes),
        Err(failure) => (failure.to_string(), Vec::new()),
    };
    let planned: Vec<_> = states.iter().map(|(state, _)| told(state, &forecast)).collect();
    let along_planned = along.foresee(&forecast).unwrap().step;
    for state in gone {
        state.converge();
    }
    along.is_settled();
    assert_eq!(along_planned, StepWord::Unchanged);
    for ((state, expected), planned) in states.iter().zip(planned) {
        let words = planned.0.split(" (").next().unwrap();
        assert_eq!(words, *expected);
        assert_eq!(told(state, &Forecast::default()), planned, "it comes as it was planned");
    }
    sh("rm -r /home/u8 /srv/u8");
}

fn password_hash_is_set_and_not_shown() {
    let hash =
        "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
    let planned = state("user", json!({"name": "u5", "password": hash})).converge();
    assert!(!format!("{planned:?}").contains("saltsalt"));
    assert_eq!(sh("getent shadow u5 | cut -d: -f2"), hash);
    assert_eq!(fields(&state("user", json!({"name": "u5", "password": "!"})).converge()), ["password"]);
    state("user", json!({"name": "u5", "absent": true, "remove_home": true})).converge();
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";

fn ssh_key_is_written_as_the_user() {
    sh("useradd -m u6");
    let first = state("ssh_key", json!({"user": "u6", "key": format!("{KEY} u6@desk")}));
    first.converge();
    assert_eq!(sh("stat -c '%U %a' /home/u6/.ssh /home/u6/.ssh/authorized_keys"), "u6 700\nu6 600");
    state("ssh_key", json!({"user": "u6", "key": OTHER, "options": ["restrict"]})).converge();
    first.is_settled();
    state("ssh_key", json!({"user": "u6", "keys": [OTHER], "exclusive": true})).converge();
    assert_eq!(read("/home/u6/.ssh/authorized_keys"), format!("restrict {OTHER}\n"));
    state("ssh_key", json!({"user": "u6", "key": OTHER, "absent": true})).converge();
    // The user's own directory may lead anywhere; what only root could read there stays out of reach.
    sh("ln -sf /etc/shadow /home/u6/.ssh/authorized_keys");
    let failure = first.foresee(&Forecast::default()).unwrap_err();
    assert!(failure.to_string().contains("Permission denied"), "{failure}");
    sh("userdel -r u6 2>&1");
}

fn ssh_key_of_a_user_to_come_is_planned() {
    let wanted = state("ssh_key", json!({"user": "u7", "key": KEY}));
    assert!(wanted.foresee(&Forecast::default()).unwrap_err().to_string().contains("there is no user u7"));
    let user = state("user", json!({"name": "u7", "home": "/srv/u7"}));
    let mut forecast = Forecast::default();
    for (resource, value) in user.analyze().predicts {
        forecast.predict(resource, "the-user".into(), value);
    }
    let planned = wanted.foresee(&forecast).unwrap();
    assert_eq!(planned.outputs["path"], "/srv/u7/.ssh/authorized_keys");
    user.converge();
    assert_eq!(
        wanted.converge().changes,
        planned.changes,
        "it comes as it was planned before the user was there"
    );
    sh("userdel -r u7 2>&1");
}

fn cron_comes_changes_and_goes() {
    let job = json!({"name": "job", "schedule": "*/5 * * * *", "command": "date +%F", "env": {"MAILTO": ""}});
    state("cron", job).converge();
    assert_eq!(read("/etc/cron.d/job"), "MAILTO=\"\"\n*/5 * * * * root date +\\%F\n");
    assert_eq!(sh("stat -c '%U %a' /etc/cron.d/job"), "root 644");
    state("cron", json!({"name": "job", "schedule": "@daily", "command": "true", "user": "daemon"}))
        .converge();
    let stranger = json!({"name": "job", "schedule": "@daily", "command": "true", "user": "no-one-here"});
    let failure = state("cron", stranger).foresee(&Forecast::default()).unwrap_err();
    assert!(failure.to_string().contains("there is no user"), "{failure}");
    state("cron", json!({"name": "job", "absent": true})).converge();
    state("cron", json!({"name": "job", "absent": true})).is_settled();
}

fn cron_puts_right_what_cron_passes_over() {
    let job = state("cron", json!({"name": "job", "schedule": "@daily", "command": "true"}));
    let gone = state("cron", json!({"name": "job", "absent": true}));
    assert_eq!(fields(&job.converge()), ["exists", "content"]);
    for (spoil, listed) in [
        ("chmod 664 /etc/cron.d/job", ["mode"].as_slice()),
        ("chmod 646 /etc/cron.d/job", &["mode"]),
        // Not so everywhere, but with cronie.
        ("chmod 755 /etc/cron.d/job", &["mode"]),
        ("chown daemon /etc/cron.d/job", &["owner"]),
        ("chown bin:daemon /etc/cron.d/job", &["owner", "group"]),
        ("mv /etc/cron.d/job /srv/job && ln -s /srv/job /etc/cron.d/job", &["exists", "content"]),
        ("ln -sf /no/where /etc/cron.d/job", &["exists", "content"]),
        ("echo >> /etc/cron.d/job && chmod 666 /etc/cron.d/job", &["content", "mode"]),
    ] {
        sh(spoil);
        assert_eq!(fields(&job.converge()), listed, "{spoil}");
        assert_eq!(sh("stat -c '%F %U %G %a' /etc/cron.d/job"), "regular file root root 644");
    }
    // Whoever wants it stricter than cron does may have it so.
    sh("chown root:daemon /etc/cron.d/job && chmod 600 /etc/cron.d/job");
    job.is_settled();
    sh("ln -sf /no/where /etc/cron.d/job");
    assert_eq!(fields(&gone.converge()), ["exists"]);
    assert_eq!(sh("ls -A /etc/cron.d | grep job || true"), "");
    sh("mkdir /etc/cron.d/job");
    for state in [&job, &gone] {
        let failure = state.foresee(&Forecast::default()).unwrap_err().to_string();
        assert!(failure.contains("it is a directory"), "{failure}");
    }
    sh("rmdir /etc/cron.d/job");
}
