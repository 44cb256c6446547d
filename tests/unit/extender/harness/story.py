"""One interleaving: a small cluster, an impatient scheduler, people who delete pods, faults everywhere, and then peace.

Everything random comes from one seed, so that a seed that fails fails again.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_api.request import ContainerRequest, decode_request

from . import bodies
from .agent import Agent
from .awaits import AWAITS, suspended_at
from .clocks import WallClock
from .extender import Extender
from .faults import KILL, Hits, Strikes
from .loop import Process, VirtualLoop
from .oracle import REPAIRED_WITHIN_S, Oracle
from .scheduler import Scheduler
from .store import Body, Store
from .wires import Outage

QUIET_S = 8.0
"""Until the first leader begins to decide, nothing worth disturbing happens."""
TROUBLE_S = 7.0
PATIENCE_S = 120.0
OWNER_REACTS_S = 0.5
EVICTING = next(a.label for a in AWAITS if a.waits_for == "self._api.evict")
SENDING = next(a.label for a in AWAITS if a.waits_for == "self._api.bind")


@dataclass(frozen=True)
class Plan:
    """What a story is about. ``kill_step``: the step of the first extender after which it is killed. The wall clocks of all
    machines jump by hours unless ``clocks_jump`` is off.

    A stale decider wakes up after its Lease and then everything works, so that the time of the repair can be judged. An intruder
    writes decisions that cannot be right while faults go on.
    """

    replicas: int = 1
    restarts: bool = False
    takeovers: bool = False
    stale_decider: bool = False
    intruder: bool = False
    outage: bool = False
    kill_step: int = 0
    clocks_jump: bool = True


@dataclass
class Result:
    """What became of it."""

    problems: list[str]
    hits: Hits
    bindings: int
    over_commitments: int
    steps: int
    lasted_s: float


def plan_of(seed: int) -> Plan:
    """The kinds of stories, in turn."""
    kinds = (
        Plan(),
        Plan(restarts=True),
        Plan(replicas=2, takeovers=True),
        Plan(restarts=True),
        Plan(replicas=2, stale_decider=True),
        Plan(),
        Plan(replicas=2, takeovers=True, restarts=True),
        Plan(restarts=True),
        Plan(intruder=True, restarts=True),
        Plan(outage=True),
    )
    return kinds[seed % len(kinds)]


class Replica:
    """A pod with its two processes, which are started again when they end."""

    def __init__(self, name: str, story: Story) -> None:
        self.name = name
        self._story = story
        self._starts = 0
        self._wall = WallClock(f"{name} {story.seed}", jumps=story.plan.clocks_jump)
        self.extender = self._new_extender()
        self.scheduler = self._new_scheduler()
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep_extender()), loop.create_task(self._keep_scheduler())]

    def _new_extender(self) -> Extender:
        story = self._story
        return Extender(self.name, story.store, story.strikes, story.outage, story.oracle, self._wall)

    def _new_scheduler(self) -> Scheduler:
        self._starts += 1
        story = self._story
        identity = str(self._starts)
        made = Scheduler(self.name, identity, story.store, story.strikes, story.outage, story.oracle, self._wall)
        made.extender = self.extender
        # The patch of a condition moves the pod's revision, and so fences a stale decider by chance; here it must not.
        made.patches_lost = 1.0 if story.plan.stale_decider else 0.3
        return made

    async def _keep_extender(self) -> None:
        while True:
            await self.extender.process.ended
            self.scheduler.extender = None
            await asyncio.sleep(self._story.random.uniform(0.05, 1.0))
            self.extender = self._new_extender()
            self.scheduler.extender = self.extender

    async def _keep_scheduler(self) -> None:
        while True:
            await self.scheduler.process.ended
            await asyncio.sleep(self._story.random.uniform(0.2, 2.0))
            self.scheduler = self._new_scheduler()

    @property
    def processes(self) -> tuple[Process, Process]:
        return self.extender.process, self.scheduler.process


@dataclass
class _Trap:
    """What to do with the process as soon as one of its tasks waits at this await."""

    process: Process
    label: str
    spring: Callable[[Process], None]

    def sprung(self) -> bool:
        return self.process.dead or any(suspended_at(task)[0] == self.label for task in self.process.tasks)


@dataclass
class Story:
    """``plan`` and seed say what happens."""

    seed: int
    plan: Plan
    random: random.Random = field(init=False)
    made: int = 0
    stop: bool = False

    async def run(self) -> Result:
        self.random = random.Random(self.seed)
        random.seed(self.seed)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.on_step = self._on_step
        self.trap: _Trap | None = None
        self.strikes = Strikes(self.random)
        self.strikes.peace = True
        self.outage = Outage()
        self.store = Store()
        self.agents = {name: self._node(name) for name in ["n0", "n1"][: self.random.choice((1, 1, 2))]}
        self.oracle = Oracle(self.store, self.agents, over_commitments=self._allowed())
        nodes = [loop.create_task(agent.run()) for agent in self.agents.values()]
        self.replicas = [Replica(f"pod-{i}", self) for i in range(self.plan.replicas)]
        self.first = self.replicas[0].extender.process
        watching = [loop.create_task(part) for part in (self._people(), self._trouble())]
        if self._allowed():
            watching.append(loop.create_task(self._look()))
        self._owners()
        again = self.plan.restarts or self.plan.takeovers
        await asyncio.sleep(QUIET_S + self.random.uniform(TROUBLE_S * 0.6, TROUBLE_S) + again * (QUIET_S + TROUBLE_S / 2))
        await self._peace(watching[1])
        problems = await self._settle()
        for task in (*watching, *nodes):
            task.cancel()
        return self._result(problems)

    def _allowed(self) -> float:
        """Seconds for which a card may be over-committed in the API."""
        if self.plan.intruder:
            return PATIENCE_S
        return REPAIRED_WITHIN_S if self.plan.stale_decider else 0.0

    def _result(self, problems: list[str]) -> Result:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        accepted = [problem for agent in self.agents.values() for problem in agent.over_accepted]
        return Result(
            problems=[
                *loop.failures,
                *self.oracle.problems,
                *problems,
                *(f"accepted more than a card has: {p}" for p in accepted),
            ],
            hits=self.strikes.hits,
            bindings=self.oracle.bindings,
            over_commitments=self.oracle.over_commitments,
            steps=self.first.steps,
            lasted_s=loop.time(),
        )

    def _node(self, name: str) -> Agent:
        body = bodies.node(name, gpus=self.random.choice((1, 1, 2)), max_slices=self.random.choice((2, 3, 10)))
        return Agent(self.store.put("vgpunodes", body), self.store, self.strikes)

    def _create(self) -> None:
        self.made += 1
        name = f"p{self.random.randint(0, 7)}"
        if f"{bodies.NAMESPACE}/{name}" in self.store.pods:
            return
        draw = self.random.choice
        memory = (6000,) if self.plan.stale_decider else (4000, 6000) if self.plan.replicas == 2 else (1000, 4000, 6000)
        request = ContainerRequest("main", number=1, cores=draw((0, 20, 50, 100)), memory_mib=draw(memory))
        self.store.put("pods", bodies.pod(name, uid=f"{name}-{self.made}", containers=[request]))

    async def _people(self) -> None:
        """Users and controllers: pods come, go, and have their status written."""
        await asyncio.sleep(QUIET_S)
        self.strikes.peace = False
        for _ in range(5):
            self._create()
        while not self.stop:
            await asyncio.sleep(self.random.uniform(0.1, 1.5))
            keys = list(self.store.pods)
            what = self.random.random()
            if what < 0.55 or not keys:
                self._create()
            elif what < 0.75:
                self.store.delete(self.random.choice(keys))
            elif what < 0.85:
                self.store.remove("pods", self.random.choice(keys))
            elif not self.plan.stale_decider:
                self.store.touch(self.random.choice(keys))

    def _owners(self) -> None:
        """The owner of an evicted pod makes another one."""
        told = self.store.on_eviction

        def note(pod: Body) -> None:
            told(pod)
            asyncio.get_running_loop().call_later(OWNER_REACTS_S, self._again, pod)

        self.store.on_eviction = note

    def _again(self, pod: Body) -> None:
        self.made += 1
        meta = pod["metadata"]
        kept = {key: value for key, value in meta["annotations"].items() if not key.startswith("alloc.")}
        fresh = {**meta, "name": f"{meta['name']}x", "uid": f"again-{self.made}", "annotations": kept}
        fresh.pop("deletionTimestamp", None)
        spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
        self.store.put("pods", {"metadata": fresh, "spec": spec, "status": {"phase": "Pending"}})

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.oracle.look()

    def _on_step(self, process: Process) -> None:
        if process is self.first and process.steps == self.plan.kill_step:
            self._kill(process)
        trap = self.trap
        if trap is not None and process is trap.process and trap.sprung():
            self.trap = None
            trap.spring(process)

    def _kill(self, process: Process) -> None:
        if not process.dead:
            self.strikes.struck_process(KILL, process)
            process.kill()

    async def _trouble(self) -> None:
        """Processes are killed and frozen."""
        await asyncio.sleep(QUIET_S + self.random.uniform(0.5, TROUBLE_S * 0.6))
        victim = self._leader()
        if self.plan.outage:
            await self._cut_off()
        if self.plan.stale_decider:
            await self._freeze(victim)
        if self.plan.intruder:
            await self._intrude()
        if self.plan.restarts:
            await self._restart(victim)
        if self.plan.takeovers:
            await self._hand_over(victim)

    def _leader(self) -> Replica:
        return next((r for r in self.replicas if r.scheduler.leading), self.replicas[0])

    async def _restart(self, victim: Replica) -> None:
        """Mostly while it waits somewhere in a bind, else anywhere."""
        if self.random.random() < 0.8:
            label = SENDING if self.random.random() < 0.5 else self.random.choice(AWAITS).label
            self.trap = _Trap(victim.extender.process, label, self._kill)
            await asyncio.sleep(self.random.uniform(2.0, 8.0))
            self.trap = None
        else:
            self._kill(victim.extender.process)

    async def _freeze(self, victim: Replica) -> None:
        """SIGSTOP, mostly just before a Binding leaves, for longer than the Lease lasts; then the old leader goes on."""

        def stop(_: Process) -> None:
            for process in victim.processes:
                process.freeze()

        if self.random.random() < 0.8:
            self.trap = _Trap(victim.extender.process, SENDING, stop)
            await asyncio.sleep(4.0)
            self.trap = None
        stop(victim.extender.process)
        await asyncio.sleep(self.random.uniform(14.0, 40.0))
        self.strikes.peace = True
        for process in victim.processes:
            process.thaw()

    async def _hand_over(self, victim: Replica) -> None:
        """The whole pod ends, mostly with a Binding under way; half of the time it gives its Lease away first."""

        def end(process: Process) -> None:
            self._kill(process)
            if self.random.random() < 0.5:
                victim.scheduler.release()
            else:
                self._kill(victim.scheduler.process)

        self.trap = _Trap(victim.extender.process, SENDING, end)
        await asyncio.sleep(self.random.uniform(1.0, 4.0))
        if self.trap is not None:
            self.trap = None
            end(victim.extender.process)

    async def _intrude(self) -> None:
        """Decisions that exceed a card, as a decider that knows nothing would write them; and the leader may die evicting."""
        if self.random.random() < 0.3:
            self.trap = _Trap(self._leader().extender.process, EVICTING, self._kill)
        for _ in range(3):
            await asyncio.sleep(self.random.uniform(0.1, 2.0))
            waiting = [key for key, pod in self.store.pods.items() if not pod["spec"].get("nodeName")]
            if waiting:
                self._force(self.random.choice(waiting))
        await asyncio.sleep(26.0)
        self.trap = None

    def _force(self, key: str) -> None:
        agent = self.random.choice(list(self.agents.values()))
        pod = self.store.pods[key]
        request = decode_request(pod["metadata"]["annotations"][names.ANNOTATION_REQUEST])
        share = GPUShare(agent.gpus[0].uuid, request.containers[0].memory_mib, request.containers[0].cores)
        uid = pod["metadata"]["uid"]
        annotations = encode_pod_allocation(pod_uid=uid, node=agent.name, shares=[[share]])
        self.store.bind(key, {"metadata": {"uid": uid, "annotations": annotations}, "target": {"name": agent.name}})

    async def _cut_off(self) -> None:
        """Nobody reaches the API server for a minute."""
        self.outage.on = True
        await asyncio.sleep(60.0)
        self.outage.on = False

    async def _peace(self, trouble: asyncio.Task[None]) -> None:
        self.stop = True
        if self.plan.stale_decider or self.plan.outage or self.plan.intruder:
            await trouble
        self.strikes.peace = True
        self.trap = None
        trouble.cancel()

    async def _settle(self) -> list[str]:
        """What is still wrong when patience ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        quiet = 0
        while True:
            await asyncio.sleep(1.0)
            leaders = [r.extender for r in self.replicas if r.extender.leadership.leading()]
            found = [p for one in leaders for p in self.oracle.unsettled(one)] or ([] if leaders else ["nobody leads"])
            quiet = 0 if found else quiet + 1
            if quiet == 3:
                return []
            if loop.time() - began > PATIENCE_S:
                return found


def tell(seed: int, plan: Plan | None = None) -> Result:
    """One interleaving, in virtual time."""
    story = Story(seed, plan or plan_of(seed))
    gc.disable()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        result: Result = runner.run(story.run())
    if seed % 100 == 0:
        gc.collect()
    return result
