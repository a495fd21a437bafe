import type { Gang } from "../../src/api/gang.ts";
import type { Pod } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import type { PlannerTermSpec } from "../../src/api/planner-term.ts";
import { createApiServer } from "../support/api-double/server.ts";
import type { Commit } from "../support/api-double/store.ts";
import { keepBudgets } from "./budgets.ts";
import { createClock } from "./clock.ts";
import { type Cluster, createControllerManager, type Workload } from "./controller-manager.ts";
import { invariants, type Witness, watchInvariants } from "./invariants.ts";
import { createKubelets } from "./kubelets.ts";
import { createNetwork, fairWeather } from "./network.ts";
import { type Component, namespace, type Parts, place } from "./parts.ts";
import { createPeople, type People } from "./people.ts";
import { createPlanners, type Tampering } from "./planners.ts";
import { createProcess, epochMs } from "./process.ts";
import { createRandom, type Random } from "./random.ts";
import { judgeRest } from "./rest.ts";
import { createScheduler } from "./scheduler.ts";
import {
  claimTemplates,
  deviceClassObjects,
  nodeObject,
  type Sketch,
  sketchWorld,
  sliceObjects,
  topologyObject,
  withMore,
  withPriorities,
} from "./sketch.ts";
import { createTrace } from "./trace.ts";

interface Violation {
  invariant: string;
  message: string;
  step: number;
  /** Last lines of the trace. */
  tail: string[];
  /** Gangs, pods and claims as they are now. */
  state: string[];
}

export interface Run {
  seed: number;
  preemption: boolean;
  /** Hash of the whole trace. */
  hash: string;
  steps: number;
  /** Virtual time that passed. */
  seconds: number;
  violation?: Violation;
}

/** What befalls the planner in a script. */
interface Machines {
  /** kill -9; its container is started again in the same pod. */
  restartPlanner(): void;
}

export interface RunOptions extends Tampering {
  seed: number;
  /** Hears every line of the trace. */
  onTrace?: (line: string) => void;
  /** What the world consists of, instead of something random. */
  sketch?: Sketch;
  /** Whether gangs have priorities and may preempt one another. */
  preemption?: boolean;
  /** What people do, and when (milliseconds since the world began), instead of random deeds and faults. */
  script?: readonly [atMs: number, act: (people: People, machines: Machines) => void][];
  /** The policy *term* asks who holds the term, not in which one a write was sent. */
  anyTerm?: boolean;
  /** Whether somebody is faster than a write; default: at random, a few percent of them at most. */
  overtakes?: (write: { path: string; body?: unknown }) => boolean;
  /** For how many milliseconds a request is on its way after its connection broke; default: at random, rarely. */
  lateMs?: (write: { path: string; body?: unknown }) => number;
  /** For how many milliseconds a planner is paused at this write of its, 0: not; default: at random, rarely. */
  pausesAt?: (write: { path: string; body?: unknown }) => number;
}

/** A rest is proved by so long a silence: longer than every pause of the planner. */
const silenceMs = 130_000;
/** After faults it takes longer: a dead watch goes unnoticed for 150 s, and is opened anew within 30 s. */
const silenceAfterFaultsMs = 200_000;
/** After events were lost: an audit begins, compares twice, and what it finds is put right. */
const auditedMs = 60_000;
/** What hangs is given up after 30 s. */
const longestRequestMs = 31_000;
/** By then everything must have come to rest. */
const patienceMs = 1_800_000;

/** Worlds that are kept for what they found, before others had rules of more kinds and lost events. */
const plainSeeds: ReadonlySet<number> = new Set([
  ...[
    410, 417, 534, 584, 587, 736, 921, 938, 1054, 1354, 1567, 2381, 3644, 4911, 5139, 6101, 6400, 6826, 9688, 10446,
    13537,
  ],
]);

/** One world: random people, machines and faults for a while, then none; at last everybody leaves. Never throws for a violation. */
export async function runSeed(options: RunOptions): Promise<Run> {
  const { seed } = options;
  const random = createRandom(seed);
  const clock = createClock();
  const trace = createTrace(() => clock.nowMs);
  let violation: Violation | undefined;
  const say = (line: string): void => {
    trace.say(line);
    options.onTrace?.(trace.tail(1)[0] ?? "");
  };
  const fail = (invariant: string, message: string): void => {
    if (violation !== undefined) return;
    say(`VIOLATION ${invariant}: ${message}`);
    violation = { invariant, message, step: clock.steps, tail: trace.tail(80), state: world?.state() ?? [] };
    clock.stop();
  };
  const crash = (error: unknown): void =>
    fail(invariants.alive, error instanceof Error ? String(error.stack) : String(error));
  process.on("unhandledRejection", crash);
  let world: ReturnType<typeof buildWorld> | undefined;
  try {
    world = buildWorld(random, clock, say, fail, options);
    for (const phase of world.phases) {
      await phase();
      if (violation !== undefined) break;
    }
  } finally {
    process.off("unhandledRejection", crash);
  }
  const run = {
    seed,
    preemption: options.preemption ?? false,
    hash: trace.hash(),
    steps: clock.steps,
    seconds: Math.round(clock.nowMs / 1000),
  };
  return violation === undefined ? run : { ...run, violation };
}

type Clock = ReturnType<typeof createClock>;

function buildWorld(
  random: Random,
  clock: Clock,
  say: (line: string) => void,
  fail: Witness["fail"],
  { seed, preemption = false, sketch: given, script, lateMs, overtakes, pausesAt, anyTerm, ...tampering }: RunOptions,
) {
  // A stream of its own: worlds without preemption stay what they were.
  const drawn = given ?? sketchWorld(random);
  const ranked = preemption && given === undefined ? withPriorities(createRandom(seed + 1e9), drawn) : drawn;
  const isPlain = given !== undefined || plainSeeds.has(seed);
  const sketch = isPlain ? ranked : withMore(createRandom(seed + 2e9), ranked);
  const losesEvents = sketch.more?.losesEvents === true;
  let uids = 0;
  const cluster: Cluster = { terminating: false };
  /** The term as two API servers know it. */
  const noticed: (PlannerTermSpec | undefined)[] = [undefined, undefined];
  const api = createApiServer({
    nowMs: () => epochMs + clock.nowMs,
    newUid: () => {
      uids += 1;
      return `uid-${uids}`;
    },
    injects: () => sketch.injects,
    terminating: () => cluster.terminating,
    term: () => noticed[random.below(noticed.length)],
    anyTerm,
  });
  const network = createNetwork(api, clock, random);
  const parts: Parts = {
    clock,
    random,
    api,
    network,
    // In one world of five, none of those that are kept for what they found.
    drainAfterMs: seed % 5 === 2 ? 5_000 : 0,
    say,
    // Else seldom: the world ends before.
    ...(losesEvents && { auditPeriodMs: 25_000 }),
    templates: claimTemplates(sketch),
    spawn: (name) => createProcess(name, clock, random),
  };
  if (lateMs !== undefined) network.lateMs = lateMs;
  const { store } = api;
  store.onCommit(({ resource, object }) => {
    if (resource !== "plannerterms") return;
    const term = object.spec as PlannerTermSpec;
    for (const server of noticed.keys()) {
      // Late, but in order: a watch never goes back to an older version.
      clock.after(random.between(20, 1_900), () => {
        if ((noticed[server]?.epoch ?? 0) < term.epoch) noticed[server] = term;
      });
    }
  });
  let lastWriteMs = 0;
  /** Whether a write is allowed now. */
  let atRest: (commit: Commit) => boolean = () => true;
  store.onCommit((commit) => {
    if (isRoutine(commit)) return;
    lastWriteMs = clock.nowMs;
    say(tell(commit));
    if (!atRest(commit)) fail(invariants.idle, `a restart at rest causes: ${tell(commit)}`);
  });

  /** From then on nothing fails, as far as is known now. */
  let calmFromMs = 0;
  /** From then on the planner has found out what events it lost, and which watches died without a word. */
  let soundFromMs = 0;

  const workloads = new Map<string, Workload>();
  const kubelets = createKubelets(parts);
  const planners = createPlanners(
    parts,
    {
      crashed: (message) => fail(invariants.alive, message),
      answered: ({ podName, podUid, node }) => {
        const pod = store.get("pods", `${namespace}/${podName}`) as
          | { metadata: { uid: string }; spec?: { nodeName?: string } }
          | undefined;
        if (pod?.metadata.uid !== podUid || pod.spec?.nodeName === node) return;
        fail(invariants.answer, `pod ${podName} is not bound to ${node}`);
      },
    },
    tampering,
    preemption,
  );
  const witness: Witness = {
    store,
    sketch,
    nowMs: () => clock.nowMs,
    after: clock.after,
    calm: () => planners.leads && clock.nowMs > Math.max(calmFromMs, soundFromMs),
    prepared: () => kubelets.prepared,
    called: () => planners.called,
    onSent: (hear) => {
      network.onSent = hear;
    },
    damaged: (uid) => people.damaged.has(uid ?? ""),
    fail,
  };
  watchInvariants(witness);
  const people = createPeople(parts, sketch, workloads, kubelets, cluster);
  const components = [createControllerManager(parts, workloads, cluster), createScheduler(parts, planners)];

  function begin(): void {
    for (const name of sketch.nodes) {
      place(api, "nodes", nodeObject(sketch, name));
      for (const slice of sliceObjects(sketch, name)) place(api, "resourceslices", slice);
    }
    for (const deviceClass of deviceClassObjects) place(api, "deviceclasses", deviceClass);
    place(api, "clustertopologies", topologyObject);
    if (preemption) keepBudgets(parts, sketch.gangs);
    for (const component of components) component.start();
    for (let replica = 0; replica < sketch.replicas; replica++) planners.start();
  }

  /** Meddles with writes on their way. */
  function meddle(strikes: number): void {
    network.onLeaving = ({ name }, request) => {
      if (request.method === "GET" || !name.startsWith("planner")) return;
      const rarely = (): number => (random.chance(strikes / 50) ? random.between(10_000, 40_000) : 0);
      const pauseMs = pausesAt === undefined ? rarely() : pausesAt(request);
      if (pauseMs > 0) planners.pauseNamed(name, pauseMs);
    };
    network.onArrival = (request) => {
      if (request.method === "GET") return;
      if (overtakes === undefined ? random.chance(strikes / 4) : overtakes(request)) people.overtake(request.path);
    };
  }

  async function follow(deeds: NonNullable<RunOptions["script"]>): Promise<void> {
    begin();
    meddle(0);
    for (const [atMs, act] of deeds) {
      await clock.run(atMs);
      act(people, { restartPlanner });
    }
  }

  /** People and faults, at random moments. */
  async function live(): Promise<void> {
    begin();
    const untilMs = random.between(20_000, 120_000);
    // Where planners die all the time nobody gets far, where they never do nothing is tried.
    const strikes = random.pick([0.03, 0.1, 0.1, 0.25]);
    meddle(strikes);
    while (clock.nowMs < untilMs && !clock.stopped) {
      await clock.run(clock.nowMs + random.between(0, random.pick([50, 500, 4_000])));
      if (random.chance(strikes)) strike();
      else people.act();
    }
  }

  function strike(): void {
    const strikes = [
      killPlanner,
      killPlanner,
      stopPlanner,
      pausePlanner,
      killComponent,
      storm,
      outage,
      disturb,
      compact,
      ...(losesEvents ? [loseEvents] : []),
    ];
    random.pick(strikes)();
  }

  function restartPlanner(): void {
    const pod = planners.kill(0);
    clock.after(50, () => planners.start(pod));
  }

  /** Its container is started again in the same pod, or the pod is replaced. */
  function killPlanner(): void {
    const pod = planners.kill(random.below(2));
    clock.after(random.between(50, 5_000), () => planners.start(random.chance(0.5) ? pod : undefined));
  }

  function stopPlanner(): void {
    planners.stop(random.below(2));
    clock.after(random.between(50, 5_000), () => planners.start());
  }

  function pausePlanner(): void {
    planners.pause(random.below(2), random.between(100, 40_000));
  }

  function killComponent(): void {
    const component: Component = random.pick(components);
    component.kill();
    clock.after(random.between(500, 10_000), component.start);
  }

  function storm(): void {
    say("storm");
    calmFromMs = Number.POSITIVE_INFINITY;
    network.weather = {
      outage: false,
      faults: random.pick([0.02, 0.1, 0.3]),
      slowness: random.pick([0, 0.1, 0.5]),
      slowestMs: random.pick([100, 2_000]),
    };
    clock.after(random.between(500, 20_000), calm);
  }

  function outage(): void {
    say("outage");
    calmFromMs = Number.POSITIVE_INFINITY;
    network.weather = { ...network.weather, outage: true };
    network.disturbWatches("reset", 1);
    clock.after(random.between(100, 20_000), calm);
  }

  function calm(): void {
    say("calm");
    calmFromMs = clock.nowMs + longestRequestMs;
    network.weather = fairWeather;
  }

  function disturb(): void {
    const how = random.pick(["close", "reset", "silence"] as const);
    say(`watches: ${how}`);
    // Whoever hears nothing more finds out by and by, whatever else is calm meanwhile.
    if (how === "silence") soundFromMs = Math.max(soundFromMs, clock.nowMs + silenceAfterFaultsMs);
    calmFromMs = Math.max(calmFromMs, clock.nowMs + longestRequestMs);
    network.disturbWatches(how, random.pick([0.2, 1]));
  }

  /** Single events never come to a planner, and nobody is told. */
  function loseEvents(): void {
    say("events get lost");
    const forMs = random.between(500, 20_000);
    soundFromMs = Math.max(soundFromMs, clock.nowMs + forMs + auditedMs);
    network.losses = random.pick([0.05, 0.3]);
    clock.after(forMs, () => {
      network.losses = 0;
    });
  }

  function compact(): void {
    say("compaction");
    store.compact();
    if (random.chance(0.5)) network.disturbWatches("reset", 1);
  }

  /** Nothing fails any more; everything must come to rest, and be right. */
  async function rest(): Promise<void> {
    await clock.run(clock.nowMs + 10_000);
    network.onArrival = () => undefined;
    network.onLeaving = () => undefined;
    calm();
    people.tidyUp();
    for (const component of components) component.start();
    // Who waits beside room that others keep is right, and not to be told from who was forgotten.
    if (parts.drainAfterMs > 0) while (planners.alive > 0) planners.kill(0);
    parts.drainAfterMs = 0;
    while (planners.alive < 1) planners.start();
    await silence(silenceAfterFaultsMs);
    if (cluster.terminating) fail(invariants.leak, "the namespace is being deleted for ever");
    if (!clock.stopped) judgeRest(witness, sketch.gangs);
  }

  async function silence(forMs = silenceMs): Promise<void> {
    const beganMs = clock.nowMs;
    lastWriteMs = clock.nowMs;
    while (!clock.stopped && clock.nowMs < lastWriteMs + forMs) {
      if (clock.nowMs - beganMs > patienceMs) return fail(invariants.rest, "writes for half an hour");
      await clock.run(lastWriteMs + forMs + 1);
    }
  }

  /**
   * Who starts anew in a world at rest finds everything as it left it. The first may still say a refusal in newer words,
   * and each tries places anew that kube-scheduler refused, which nobody remembers: what comes of that is news too.
   */
  async function idle(): Promise<void> {
    const isTrial = trialsOfRefused();
    let isFirst = true;
    let tried = false;
    atRest = (commit) => {
      if (isRefusal(commit)) return isFirst || tried || isTrial(commit);
      tried ||= isTrial(commit);
      return isTrial(commit);
    };
    await restart();
    isFirst = false;
    await restart();
    atRest = () => true;
  }

  /** Pods that were let go and are not bound, with their claims and Gangs. */
  function trialsOfRefused(): (commit: Commit) => boolean {
    const pods = [...store.all("pods").values()] as unknown as Pod[];
    const refused = pods.filter(({ spec, status }) => {
      const isGated = (spec.schedulingGates ?? []).length > 0;
      const condition = status?.conditions?.find(({ type }) => type === "PodScheduled");
      return spec.nodeName === undefined && !isGated && condition?.status === "False";
    });
    const names = refused.map(({ metadata }) => metadata.name);
    const gangs = new Set(refused.map(({ metadata }) => metadata.labels?.[gangLabel]));
    return ({ resource, object: { metadata } }) =>
      resource === "gangs"
        ? gangs.has(metadata.name)
        : names.some((name) => metadata.name === name || metadata.name.startsWith(`${name}-gpus-`));
  }

  function isRefusal({ resource, object, previous }: Commit): boolean {
    const phase = (gang: unknown) => (gang as Gang | undefined)?.status?.phase ?? "Pending";
    return resource === "gangs" && phase(object) === "Pending" && phase(previous) === "Pending";
  }

  async function restart(): Promise<void> {
    while (planners.alive > 0) planners.kill(0);
    planners.start();
    await silence();
  }

  /** Everybody leaves: nothing may stay behind. */
  async function end(): Promise<void> {
    say("everybody leaves");
    people.leave();
    await clock.run(clock.nowMs + 5_000);
    // A pod that was on its way while its workload was deleted.
    people.leave();
    await silence();
    for (const resource of ["pods", "resourceclaims", "gangs", "placementgroups"]) {
      for (const key of store.all(resource).keys())
        fail(invariants.leak, `${resource} ${key} is left when all are gone`);
    }
    if (planners.remembered > 0) fail(invariants.leak, "a planner remembers gangs when all are gone");
    while (planners.alive > 0) planners.kill(0);
  }

  function state(): string[] {
    return ["nodes", "gangs", "pods", "resourceclaims"].flatMap((resource) =>
      [...store.all(resource)].map(([key, object]) => `${resource} ${key}${describe(resource, object)}`),
    );
  }

  return { phases: [script === undefined ? live : () => follow(script), rest, idle, end], state };
}

/** Leases are renewed and events written for ever. */
function isRoutine({ resource }: Commit): boolean {
  return resource === "leases" || resource === "events" || resource === "plannerterms";
}

function tell({ type, resource, object, user, version }: Commit): string {
  const verb = type === "MODIFIED" ? "~" : type === "ADDED" ? "+" : "-";
  const who = user.split(":").at(-1);
  return `${verb} ${resource} ${object.metadata.name} by ${who} @${version}${describe(resource, object)}`;
}

function describe(resource: string, object: Commit["object"]): string {
  const { status, spec, metadata } = object as {
    status?: Record<string, unknown>;
    spec?: Record<string, unknown>;
    metadata: Commit["object"]["metadata"];
  };
  const facts: string[] = [];
  if (metadata.deletionTimestamp !== undefined) facts.push("deleting");
  if (resource === "gangs") facts.push(String(status?.["phase"] ?? "new"), String(status?.["explanation"] ?? ""));
  if (resource === "nodes") facts.push(JSON.stringify([spec?.["unschedulable"] ?? false, status?.["conditions"]]));
  if (resource === "pods") {
    facts.push(
      `${metadata.uid}`,
      String(spec?.["nodeName"] ?? "unbound"),
      spec?.["schedulingGates"] === undefined ? "" : "gated",
    );
    facts.push(
      String(status?.["phase"] ?? ""),
      status?.["nominatedNodeName"] === undefined ? "" : `nominated ${status["nominatedNodeName"]}`,
    );
  }
  if (resource === "resourceclaims") {
    const { allocation, reservedFor = [] } = (status ?? {}) as {
      allocation?: { devices: { results: { pool: string; device: string }[] } };
      reservedFor?: { uid: string; resource: string }[];
    };
    facts.push(
      (allocation?.devices.results ?? []).map(({ pool, device }) => `${pool}/${device}`).join(" ") || "unallocated",
    );
    facts.push(`for ${reservedFor.map((each) => `${each.resource === "gangs" ? "guard " : ""}${each.uid}`).join(" ")}`);
    if ((metadata.finalizers ?? []).length === 0) facts.push("unprotected");
  }
  return facts.length === 0 ? "" : `: ${facts.filter((each) => each !== "").join(", ")}`;
}
