//! Renewals in made-up time: days pass in an instant.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::UNIX_EPOCH,
};

use rustls_pki_types::UnixTime;

use super::*;
use crate::{
    KeyMaterial, TimeProvider,
    ca::Ca,
    testing::{WEB, now},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The clock on the wall: goes with the runtime's time, and jumps when told to.
#[derive(Debug)]
struct Wall {
    began: Instant,
    jump: AtomicI64,
}

impl Wall {
    fn now(&self) -> SystemTime {
        let jump = self.jump.load(SeqCst);
        let time = now() + self.began.elapsed();
        if jump < 0 {
            time - Duration::from_secs(jump.unsigned_abs())
        } else {
            time + Duration::from_secs(jump.unsigned_abs())
        }
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(
            self.now().duration_since(UNIX_EPOCH).unwrap(),
        ))
    }
}

/// What the service does when called.
#[derive(Clone, Copy, Debug)]
enum Service {
    Up {
        lifetime: Duration,
    },
    Down,
    Silent,
    /// Signs with another root than ours.
    Stranger,
}

struct World {
    ca: Ca,
    stranger: Ca,
    identity: Arc<LocalIdentity>,
    wall: Arc<Wall>,
    service: Mutex<Service>,
    calls: Mutex<Vec<Duration>>,
    events: Mutex<Vec<String>>,
    expired: AtomicBool,
}

impl World {
    fn new(service: Service) -> Arc<Self> {
        let wall = Arc::new(Wall {
            began: Instant::now(),
            jump: AtomicI64::new(0),
        });
        let ca = Ca::create("root").unwrap();
        let identity = LocalIdentity::with_clock(
            WEB.parse().unwrap(),
            WEB,
            KeyMaterial::create(WEB).unwrap(),
            ca.anchors().clone(),
            Arc::clone(&wall) as Arc<dyn TimeProvider>,
        )
        .unwrap();
        Arc::new(Self {
            ca,
            stranger: Ca::create("root").unwrap(),
            identity,
            wall,
            service: Mutex::new(service),
            calls: Mutex::default(),
            events: Mutex::default(),
            expired: AtomicBool::new(false),
        })
    }

    /// Runs `maintain` as a task, as the proxy does.
    fn start(self: &Arc<Self>, schedule: Schedule) {
        let world = Arc::clone(self);
        let observer = Arc::clone(self);
        tokio::spawn(async move {
            let identity = Arc::clone(&world.identity);
            let certify = async || world.certify().await;
            maintain(identity, schedule, certify, observer).await
        });
    }

    async fn certify(&self) -> Result<Certified, &'static str> {
        self.calls.lock().unwrap().push(self.wall.began.elapsed());
        let service = *self.service.lock().unwrap();
        let (ca, lifetime) = match service {
            Service::Up { lifetime } => (&self.ca, lifetime),
            Service::Stranger => (&self.stranger, DAY),
            Service::Down => return Err("connection refused"),
            Service::Silent => std::future::pending().await,
        };
        let now = self.wall.now();
        let issued = ca
            .issue_at(self.identity.csr(), WEB, lifetime, Duration::ZERO, now)
            .map_err(|_| "refused")?;
        Ok(Certified {
            leaf: issued.leaf_der,
            intermediates: issued.chain,
            valid_until: issued.not_after,
        })
    }

    fn set(&self, service: Service) {
        *self.service.lock().unwrap() = service;
    }

    fn calls(&self) -> Vec<Duration> {
        self.calls.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

impl Observer for Arc<World> {
    fn certified(&self, _: SystemTime) {
        self.events.lock().unwrap().push("ok".to_owned());
    }

    fn failed(&self, error: &RefreshError) {
        self.events.lock().unwrap().push(error.reason().to_owned());
    }

    fn expired(&self, _: SystemTime) {
        assert!(!self.expired.swap(true, SeqCst), "said twice");
    }
}

/// Lets this much time pass, with all that happens in it.
async fn pass(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}

#[test]
fn renewal_comes_after_70_percent_within_its_bounds_and_never_after_the_end() {
    let schedule = Schedule::default();
    for (remaining, rest) in [
        (30 * SECOND, 21 * SECOND),
        (DAY, DAY * 7 / 10),
        (100 * DAY, DAY),
        // 70 % would be 8.4 s: the minimum counts.
        (12 * SECOND, 10 * SECOND),
        // The minimum would be after the end, or all but.
        (11 * SECOND, Duration::from_millis(7700)),
        (4 * SECOND, Duration::from_millis(2800)),
        (Duration::ZERO, Duration::ZERO),
    ] {
        let got = schedule.after_success(remaining);
        assert!(got.abs_diff(rest) < SECOND / 1000, "{remaining:?}: {got:?}");
    }
}

#[test]
fn pauses_after_failures_grow_and_are_random_and_leave_room_before_the_end() {
    let schedule = Schedule::default();
    let pause = |failures, remaining, random| schedule.after_failure(failures, remaining, random);
    assert_eq!(pause(1, DAY, 1.0), Duration::from_millis(200));
    assert_eq!(pause(1, DAY, 0.0), Duration::from_millis(100));
    assert_eq!(pause(4, DAY, 1.0), Duration::from_millis(1600));
    assert_eq!(pause(40, DAY, 1.0), 10 * SECOND);
    assert_eq!(pause(u32::MAX, DAY, 0.0), 5 * SECOND);
    assert_eq!(pause(40, 4 * SECOND, 1.0), SECOND);
    assert_eq!(pause(40, Duration::ZERO, 1.0), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_30_seconds_is_renewed_every_21() {
    let world = World::new(Service::Up {
        lifetime: 30 * SECOND,
    });
    world.start(Schedule::default());
    pass(90 * SECOND).await;
    let seconds: Vec<_> = world.calls().iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [0, 21, 42, 63, 84]);
    assert_eq!(world.events(), ["ok"; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_asked_often_and_a_certificate_outlives_a_short_absence() {
    let world = World::new(Service::Up {
        lifetime: 30 * SECOND,
    });
    world.start(Schedule::default());
    pass(20 * SECOND).await;
    world.set(Service::Down);
    pass(9 * SECOND).await;
    // 8 s of absence, 1 s before the end.
    assert!(world.events().len() > 5, "{:?}", world.events());
    world.set(Service::Up {
        lifetime: 30 * SECOND,
    });
    pass(SECOND).await;
    assert_eq!(world.events().last().unwrap(), "ok");
    assert!(!world.expired.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn after_a_long_absence_a_certificate_comes_within_two_seconds() {
    let world = World::new(Service::Up { lifetime: HOUR });
    world.start(Schedule::default());
    pass(SECOND).await;
    let first = world.identity.current().unwrap();
    world.set(Service::Down);
    pass(3 * HOUR).await;
    assert!(world.expired.load(SeqCst));
    // The expired one stays in use, and the service is not stormed.
    assert!(Arc::ptr_eq(&first, &world.identity.current().unwrap()));
    assert!(world.calls().len() < 4 * 3600, "{}", world.calls().len());
    world.set(Service::Up { lifetime: HOUR });
    pass(2 * SECOND).await;
    assert_eq!(world.events().last().unwrap(), "ok");
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_is_waited_for_with_short_pauses() {
    let world = World::new(Service::Down);
    world.start(Schedule::default());
    pass(60 * SECOND).await;
    let longest = world.calls().windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.unwrap() <= SECOND + SECOND / 100, "{longest:?}");
    assert_eq!(world.events()[0], "call");
    assert!(!world.expired.load(SeqCst), "nothing was there to expire");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_answer_is_given_up_at_its_deadline() {
    let world = World::new(Service::Silent);
    world.start(Schedule::default());
    pass(11 * SECOND).await;
    assert_eq!(world.events(), ["timeout"]);
    assert_eq!(world.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_does_not_use_up_what_is_left_of_a_short_certificate() {
    let world = World::new(Service::Up {
        lifetime: 10 * SECOND,
    });
    world.start(Schedule::default());
    pass(6 * SECOND).await;
    world.set(Service::Silent);
    // The call at 7 s hangs; 3 s are left, so it is given up at 8.5 s.
    pass(3 * SECOND).await;
    world.set(Service::Up {
        lifetime: 10 * SECOND,
    });
    pass(SECOND).await;
    assert!(!world.expired.load(SeqCst));
    assert!(world.events().contains(&"timeout".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_no_use_is_a_failure_with_its_reason() {
    let world = World::new(Service::Stranger);
    world.start(Schedule::default());
    pass(SECOND / 100).await;
    assert_eq!(world.events(), ["bad_signature"]);
    assert!(world.identity.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_by_an_hour_neither_delays_renewals_nor_makes_a_storm() {
    for jump in [3600, -3600] {
        let world = World::new(Service::Up { lifetime: DAY });
        world.start(Schedule::default());
        pass(HOUR).await;
        world.wall.jump.store(jump, SeqCst);
        pass(DAY * 3).await;
        // 16.8 h after the one before, each.
        let hours: Vec<_> = world
            .calls()
            .iter()
            .map(|call| call.as_secs() / 360)
            .collect();
        assert_eq!(hours, [0, 168, 336, 504, 672], "{jump}");
        assert!(!world.expired.load(SeqCst));
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_past_the_end_renews_within_a_minute_of_waking() {
    let world = World::new(Service::Up { lifetime: DAY });
    world.start(Schedule::default());
    pass(HOUR).await;
    // Monotonic time stands still in sleep; to us it looks like a jump of the clock on the wall.
    world.wall.jump.store(48 * 3600, SeqCst);
    pass(61 * SECOND).await;
    assert_eq!(world.calls().len(), 2);
    assert_eq!(world.events(), ["ok", "ok"]);
}
