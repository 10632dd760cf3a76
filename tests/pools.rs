//! Runs on threads of the caller: the same bits as on fuse's own, whatever the pool offers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use fuse::frontend::zoo;
use fuse::random::{by_kind, values_for};
use fuse::{
    CompileOptions, Device, DeviceOptions, DimEnv, Executable, Graph, HostTensor, Target, ThreadPool, Tier,
};

/// One test at a time: some look at what the whole process does.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dims() -> DimEnv {
    DimEnv::new().with("T", 13).with("B", 37)
}

fn graph() -> Graph {
    zoo::lstm_graph(48, 96).expect("traces")
}

fn tiers() -> Vec<Tier> {
    vec![
        Tier::Fast,
        #[cfg(feature = "llvm")]
        Tier::Peak,
    ]
}

fn load(device: &Device, tier: Tier) -> Executable {
    let graph = graph();
    let options = CompileOptions { tier, ..CompileOptions::new(Target::Cpu) };
    let mut model = fuse::compile(&graph, &options).expect("compiles").load(device).expect("loads");
    let values = values_for(&graph, &dims(), 5).expect("dimensions are given");
    model.bind(by_kind(&graph, &values).0).expect("binds");
    model
}

fn outputs(model: &Executable) -> Vec<HostTensor> {
    let values = values_for(model.graph(), &dims(), 5).expect("dimensions are given");
    model.run(&by_kind(model.graph(), &values).1, &dims()).expect("runs")
}

/// What fuse's own threads compute.
fn expected(threads: usize, tier: Tier) -> Vec<HostTensor> {
    let options = DeviceOptions { threads: Some(threads), ..DeviceOptions::default() };
    outputs(&load(&Device::cpu(&options).expect("a team of threads starts"), tier))
}

/// Makes the calls that a function of the number of workers says, each on a thread of its own.
struct Calls(usize, fn(usize) -> usize);

impl ThreadPool for Calls {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..(self.1)(workers)).for_each(|_| drop(scope.spawn(work))));
    }
}

/// Makes one call after the other on the calling thread.
struct OneByOne;

impl ThreadPool for OneByOne {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
        (0..workers).for_each(|_| work());
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// Threads that wait for tasks, some of which may have others in front of them.
struct Queue {
    tasks: Mutex<Option<Sender<Task>>>,
    workers: Vec<JoinHandle<()>>,
    /// The threads that tasks ran on.
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Queue {
    fn new(threads: usize) -> Arc<Queue> {
        let (tasks, queue) = channel::<Task>();
        let queue = Arc::new(Mutex::new(queue));
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let worker = |_| {
            let (queue, seen) = (queue.clone(), seen.clone());
            std::thread::spawn(move || {
                loop {
                    let Ok(task) = queue.lock().expect("no task panics").recv() else { return };
                    let name: ThreadId = std::thread::current().id();
                    seen.lock().expect("no task panics").insert(format!("{name:?}"));
                    task();
                }
            })
        };
        let workers = (0..threads).map(worker).collect();
        Arc::new(Queue { tasks: Mutex::new(Some(tasks)), workers, seen })
    }

    fn spawn(&self, task: Task) {
        self.tasks.lock().expect("no task panics").as_ref().expect("open").send(task).expect("workers wait");
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.tasks.lock().expect("no task panics").take();
        self.workers.drain(..).for_each(|w| w.join().expect("no task panics"));
    }
}

impl ThreadPool for Queue {
    fn threads(&self) -> usize {
        self.workers.len()
    }

    fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
        let calls = Arc::new((Mutex::new(Calling { waiting: workers - 1, running: 0 }), Condvar::new()));
        // SAFETY: this function does not return before all calls have that began, and then none begins.
        let lent: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        for _ in 1..workers {
            let calls = calls.clone();
            self.spawn(Box::new(move || {
                {
                    let mut calls = calls.0.lock().expect("no task panics");
                    if calls.waiting == 0 {
                        return;
                    }
                    calls.waiting -= 1;
                    calls.running += 1;
                }
                lent();
                calls.0.lock().expect("no task panics").running -= 1;
                calls.1.notify_all();
            }));
        }
        work();
        let mut guard = calls.0.lock().expect("no task panics");
        guard.waiting = 0;
        drop(calls.1.wait_while(guard, |calls| calls.running > 0).expect("no task panics"));
    }
}

/// The calls of one run: a thread that has done its own withdraws those that no worker was free for.
struct Calling {
    waiting: usize,
    running: usize,
}

#[test]
fn whatever_a_pool_offers_the_bits_are_those_of_fuses_own_threads() {
    let _alone = alone();
    for tier in tiers() {
        for threads in 1..=4 {
            let expected = expected(threads, tier);
            let offers: [fn(usize) -> usize; 4] = [|n| n, |n| n / 2, |n| n + 3, |_| 0];
            for offer in offers {
                let model = load(&Device::on_pool(Calls(threads, offer), &DeviceOptions::default()), tier);
                for _ in 0..3 {
                    assert_eq!(outputs(&model), expected, "{threads} threads, {tier:?}");
                }
            }
        }
        let model = load(&Device::on_pool(OneByOne, &DeviceOptions::default()), tier);
        assert_eq!(outputs(&model), expected(3, tier));
    }
}

#[test]
fn a_run_is_profiled_whoever_comes() {
    let _alone = alone();
    let devices = [
        Device::on_pool(OneByOne, &DeviceOptions::default()),
        Device::on_pool(Calls(3, |_| 0), &DeviceOptions::default()),
        Device::cpu(&DeviceOptions { threads: Some(3), ..DeviceOptions::default() }).expect("threads start"),
    ];
    for device in devices {
        let model = load(&device, Tier::Fast);
        let values = values_for(model.graph(), &dims(), 5).expect("dimensions are given");
        let kernels = model.profile(&by_kind(model.graph(), &values).1, &dims()).expect("runs");
        let steps = kernels.iter().filter(|k| k.launches == 13).count();
        assert!(steps > 0, "{kernels:?}");
        let worked = |k: &fuse::runtime::KernelTime| k.running.iter().any(|time| !time.is_zero());
        assert!(kernels.iter().all(worked), "{kernels:?}");
    }
}

#[test]
fn the_workers_of_a_pool_do_the_work() {
    let _alone = alone();
    let pool = Queue::new(3);
    let device = Device::on_pool(pool.clone(), &DeviceOptions::default());
    assert_eq!(device.threads(), 3);
    let model = load(&device, Tier::Fast);
    outputs(&model);
    assert!(!pool.seen.lock().expect("no task panics").is_empty());
    let one = DeviceOptions { threads: Some(1), ..DeviceOptions::default() };
    let unused = Queue::new(3);
    outputs(&load(&Device::on_pool(unused.clone(), &one), Tier::Fast));
    assert!(unused.seen.lock().expect("no task panics").is_empty(), "one thread is the calling one");
}

/// Several threads of the host, and workers of the pool themselves, all at once, with fewer workers than they ask for.
#[test]
fn runs_from_several_threads_share_a_pool() {
    let _alone = alone();
    let expected = expected(2, Tier::Fast);
    let pool = Queue::new(2);
    let model = Arc::new(load(&Device::on_pool(pool.clone(), &DeviceOptions::default()), Tier::Fast));
    let (done, results) = channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(outputs(&model), expected)));
        }
    });
    for _ in 0..2 {
        let (model, done) = (model.clone(), done.clone());
        let other = Queue::new(2);
        let inner = load(&Device::on_pool(other, &DeviceOptions::default()), Tier::Fast);
        pool.spawn(Box::new(move || {
            // From a worker: with the pool that it is of, which may have no other to offer, and with another.
            let same = model.run(
                &by_kind(model.graph(), &values_for(model.graph(), &dims(), 5).expect("given")).1,
                &dims(),
            );
            drop(model);
            done.send((same.expect("runs"), outputs(&inner))).expect("waits");
        }));
    }
    drop(done);
    let mut runs = 0;
    for (same, other) in results {
        assert_eq!((same, other), (expected.clone(), expected.clone()));
        runs += 1;
    }
    assert_eq!(runs, 2);
}

/// The time that processors have spent on this process, in hundredths of a second.
#[cfg(target_os = "linux")]
fn busy() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_pool_fuse_starts_no_threads_and_spends_no_time_between_runs() {
    let _alone = alone();
    let pool = Queue::new(2);
    let model = load(&Device::on_pool(pool.clone(), &DeviceOptions::default()), Tier::Fast);
    outputs(&model);
    for task in std::fs::read_dir("/proc/self/task").expect("Linux") {
        // A thread that is gone meanwhile is none of fuse.
        let name = std::fs::read_to_string(task.expect("Linux").path().join("comm")).unwrap_or_default();
        assert!(!name.starts_with("fuse-"), "{name}");
    }
    std::thread::sleep(Duration::from_millis(50));
    let before = busy();
    std::thread::sleep(Duration::from_millis(400));
    let spent = busy() - before;
    assert!(spent < 4, "{spent} of 40 hundredths of a second");
}

#[test]
fn a_panic_of_a_pool_is_an_error_and_the_next_run_succeeds() {
    let _alone = alone();
    /// Panics once.
    struct Once(AtomicUsize);
    impl ThreadPool for Once {
        fn threads(&self) -> usize {
            2
        }

        fn run(&self, _workers: usize, work: &(dyn Fn() + Sync)) {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "out of order");
            work();
        }
    }
    let model = load(&Device::on_pool(Once(AtomicUsize::new(0)), &DeviceOptions::default()), Tier::Fast);
    let values = values_for(model.graph(), &dims(), 5).expect("dimensions are given");
    let inputs = by_kind(model.graph(), &values).1;
    let error = model.run(&inputs, &dims()).expect_err("the pool fails").to_string();
    assert!(error.contains("out of order"), "{error}");
    assert_eq!(model.run(&inputs, &dims()).expect("runs"), expected(2, Tier::Fast));
}
