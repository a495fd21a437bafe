import type { Gang } from "../../src/api/gang.ts";
import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { plannerName } from "../../src/api/names.ts";
import type { PlannerTermSpec } from "../../src/api/planner-term.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import type { Cluster, Workload } from "./controller-manager.ts";
import type { Kubelets } from "./kubelets.ts";
import { namespace, type Parts, paths, place } from "./parts.ts";
import {
  type DeviceKind,
  gangObject,
  groupObject,
  nodeObject,
  podObject,
  type Sketch,
  sliceObjects,
  workloadsOf,
} from "./sketch.ts";

/** People and machines: what they do, sensible or not. Names of what they do, for the trace, and how often. */
export interface People {
  /** One random thing. */
  act(): void;
  /** With its pods. */
  createGang(name: string): void;
  createGroup(): void;
  deleteGroup(): void;
  deleteGang(name: string): void;
  deletePod(name: string): void;
  /** Its pods go and nobody makes others; the Gang stays, and keeps its places. */
  deleteMembers(gang: string): void;
  /** A pod without devices, past gate and kube-scheduler: `pinned-1`, `pinned-2`, … */
  pin(node: string, cpu: number): void;
  /** An administrator, or a planner with a Lease of its own, begins a term above the present one. */
  takeTerm(): void;
  nodeGone(name: string): void;
  nodeBack(name: string): void;
  /** Is faster than a write that has just come to the API server, and changes what it rests on. */
  overtake(path: string): void;
  /**
   * The pod's claim is the user's own, as after `--cascade=orphan`; kube-scheduler takes the pod off it because its bind
   * call broke off; and the pod is gone at once.
   */
  strandClaim(pod: string): void;
  /** Takes everybody off the pod's claim, which stays allocated. */
  stripClaim(pod: string): void;
  /** A pod of its own, with devices: `single-1`, `single-2`, … */
  createPod(devices: number): void;
  /** An administrator empties the claim of a pod that runs. */
  wipeClaim(pod: string): void;
  /** Repairs what people and machines broke: nodes are back, and no surprises come any more. */
  tidyUp(): void;
  /** Takes everything away. */
  leave(): void;
  /** Pod UIDs whose claims somebody wiped or stripped. */
  readonly damaged: ReadonlySet<string>;
}

export function createPeople(
  parts: Parts,
  sketch: Sketch,
  workloads: Map<string, Workload>,
  kubelets: Kubelets,
  cluster: Cluster,
): People {
  const { api, random, say } = parts;
  const process = parts.spawn("people");
  const client: KubeClient = parts.network.client(process, "admin");
  const damaged = new Set<string>();
  const { store } = api;
  let names = 0;

  const pods = () => [...store.all("pods").values()] as unknown as Pod[];
  const claims = () => [...store.all("resourceclaims").values()] as unknown as ResourceClaim[];
  const gangs = () => [...store.all("gangs").values()] as unknown as Gang[];

  /** Mostly refused or lost now and then, as for everybody: nobody tries again. */
  function ask(what: string, method: "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: unknown): void {
    say(`people: ${what}`);
    client.request(method, path, { body }).catch(() => undefined);
  }

  function createSomeGang(): void {
    const missing = sketch.gangs.filter(({ name }) => store.get("gangs", `${namespace}/${name}`) === undefined);
    if (missing.length === 0) return;
    const chosen = random.pick(missing);
    createGang(chosen.name);
    if (chosen.role !== undefined && random.chance(0.7)) createGroup();
  }

  function createGang(name: string): void {
    const chosen = sketch.gangs.find((each) => each.name === name);
    if (chosen === undefined) throw new Error(`no gang ${name} in the sketch`);
    ask(`create gang ${chosen.name}`, "POST", paths.gang(), gangObject(chosen, sketch.group));
    for (const workload of workloadsOf(chosen)) workloads.set(workload.name, workload);
  }

  function createGroup(): void {
    const { group } = sketch;
    if (group === undefined || store.get("placementgroups", `${namespace}/${group.name}`) !== undefined) return;
    ask(`create PlacementGroup ${group.name}`, "POST", paths.group(), groupObject(group));
  }

  function deleteGroup(): void {
    const { group } = sketch;
    if (group !== undefined) ask(`delete PlacementGroup ${group.name}`, "DELETE", paths.group(group.name));
  }

  function deleteNamespace(): void {
    if (cluster.terminating) return;
    say("people: delete the namespace");
    cluster.terminating = true;
    workloads.clear();
  }

  function deleteSomeWorkload(): void {
    if (workloads.size > 0) deleteWorkload(random.pick([...workloads.keys()]));
  }

  function deleteWorkload(name: string): void {
    say(`people: delete workload ${name}`);
    workloads.delete(name);
    for (const pod of pods()) if (pod.metadata.name.startsWith(`${name}-`)) deletePod(pod, undefined);
  }

  function scale(): void {
    if (workloads.size === 0) return;
    const workload = random.pick([...workloads.values()]);
    const replicas = Math.max(1, workload.replicas + random.pick([-1, 1]));
    say(`people: scale ${workload.name} to ${replicas}`);
    workloads.set(workload.name, { ...workload, replicas });
  }

  function deletePod(pod: Pod, gracePeriodSeconds: number | undefined): void {
    const grace = gracePeriodSeconds === undefined ? "" : " at once";
    ask(`delete pod ${pod.metadata.name}${grace}`, "DELETE", paths.pod(pod.metadata.name), { gracePeriodSeconds });
  }

  function withPod(act: (pod: Pod) => void): void {
    const all = pods();
    if (all.length > 0) act(random.pick(all));
  }

  function withGang(act: (gang: Gang) => void): void {
    const all = gangs();
    if (all.length > 0) act(random.pick(all));
  }

  function deleteGang(gang: Gang): void {
    ask(`delete gang ${gang.metadata.name}`, "DELETE", paths.gang(gang.metadata.name));
  }

  /** Most of all while it is being decided. */
  function editGang(): void {
    const all = gangs();
    const reserved = all.filter(({ status }) => status?.phase === "Reserved");
    if (all.length > 0) edit(random.pick(reserved.length > 0 ? reserved : all));
  }

  function edit(gang: Gang): void {
    const spec = { scheduleTimeoutSeconds: 5 + random.below(60) };
    ask(`edit gang ${gang.metadata.name}`, "PATCH", paths.gang(gang.metadata.name), { spec });
  }

  function single(): void {
    const devices = random.below(sketch.devicesPerNode + 1);
    const kind = sketch.migNodes.size > 0 && random.chance(0.4) ? "migs" : "gpus";
    createPod(devices, 1 + random.below(6), kind);
  }

  function createPod(devices: number, cpu: number, kind?: DeviceKind): void {
    names += 1;
    ask("create single pod", "POST", paths.pod(), podObject(`single-${names}`, {}, devices, cpu, kind));
  }

  const pinned = (): void => {
    const cpu = 1 + random.below(6);
    pin(random.pick(sketch.nodes), cpu);
  };

  function pin(nodeName: string, cpu: number): void {
    names += 1;
    const pod = podObject(`pinned-${names}`, {}, 0, cpu);
    ask(`create pod on ${nodeName}`, "POST", paths.pod(), { ...pod, spec: { ...pod.spec, nodeName } });
  }

  function placeNode(name: string): void {
    place(api, "nodes", nodeObject(sketch, name));
    for (const slice of sliceObjects(sketch, name)) {
      if (store.get("resourceslices", slice.metadata.name) === undefined) place(api, "resourceslices", slice);
    }
  }

  /** The garbage collector: slices belong to their Node. */
  function collectSlices(name: string): void {
    if (store.get("nodes", name) !== undefined) return;
    for (const { metadata } of sliceObjects(sketch, name)) store.remove("resourceslices", metadata.name, "collector");
  }

  function nodeGone(name: string): void {
    if (store.get("nodes", name) === undefined) return;
    kubelets.wipe(name);
    ask(`node ${name} is gone`, "DELETE", paths.node(name));
    process.after(random.between(500, 5_000), () => collectSlices(name));
  }

  function nodeBack(name: string): void {
    if (store.get("nodes", name) !== undefined) return;
    say(`people: node ${name} is back`);
    placeNode(name);
  }

  function changeNode(what: string, change: (node: Node) => Node): void {
    const node = store.get("nodes", random.pick(sketch.nodes)) as unknown as Node | undefined;
    if (node === undefined) return;
    say(`people: ${what} node ${node.metadata.name}`);
    place(api, "nodes", change(node));
  }

  const cordon = (): void =>
    changeNode("cordon or uncordon", (node) => ({
      ...node,
      spec: { unschedulable: node.spec?.unschedulable !== true },
    }));

  const toggleReady = (): void =>
    changeNode("lose or find", (node) => {
      const now = node.status?.conditions?.[0]?.status === "True";
      return { ...node, status: { ...node.status, conditions: [{ type: "Ready", status: now ? "Unknown" : "True" }] } };
    });

  /** Claims of pods that wait: policies keep people off those in use. */
  function withClaim(act: (claim: ResourceClaim) => void): void {
    const waiting = new Set(pods().flatMap((pod) => (pod.spec.nodeName === undefined ? [pod.metadata.uid] : [])));
    const all = claims().filter((claim) => waiting.has(claim.metadata.ownerReferences?.[0]?.uid));
    if (all.length === 0) return;
    const claim = random.pick(all);
    damaged.add(claim.metadata.ownerReferences?.[0]?.uid ?? "");
    act(claim);
  }

  const deleteClaim = (claim: ResourceClaim): void =>
    ask(`delete claim ${claim.metadata.name}`, "DELETE", paths.claim(claim.metadata.name));
  const wipeConsumers = (claim: ResourceClaim): void =>
    ask(`wipe consumers of ${claim.metadata.name}`, "PATCH", paths.claim(claim.metadata.name, "status"), {
      status: { reservedFor: null },
    });
  const wipeClaim = (claim: ResourceClaim): void =>
    ask(`wipe claim ${claim.metadata.name}`, "PATCH", paths.claim(claim.metadata.name, "status"), {
      status: { reservedFor: null, allocation: null },
    });

  /** An administrator's: users have no right to it. Which devices the pod goes on using nothing tells any more. */
  function wipeRunning(pod: Pod): void {
    const claim = claims().find(({ metadata }) => metadata.ownerReferences?.[0]?.uid === pod.metadata.uid);
    if (claim?.status?.allocation === undefined || pod.status?.phase !== "Running") return;
    damaged.add(pod.metadata.uid ?? "");
    wipeClaim(claim);
  }

  const deeds: readonly [weight: number, act: () => void][] = [
    [12, createSomeGang],
    [1, deleteSomeWorkload],
    [1, scale],
    [4, () => withPod((pod) => deletePod(pod, random.pick([undefined, undefined, 0])))],
    [2, () => withGang(deleteGang)],
    [2, editGang],
    [2, single],
    [0.5, pinned],
    [sketch.group === undefined ? 0 : 2, createGroup],
    [sketch.group === undefined ? 0 : 0.3, deleteGroup],
    [0.15, deleteNamespace],
    [1, () => nodeGone(random.pick(sketch.nodes))],
    [2, () => nodeBack(random.pick(sketch.nodes))],
    [1, cordon],
    [1, toggleReady],
    [0.3, () => withClaim(deleteClaim)],
    [0.3, () => withClaim(wipeConsumers)],
    [0.3, () => withClaim(wipeClaim)],
    [sketch.more === undefined ? 0 : 0.3, () => withPod(wipeRunning)],
  ];
  const total = deeds.reduce((sum, [weight]) => sum + weight, 0);

  return {
    damaged,
    act() {
      let at = random.next() * total;
      const deed = deeds.find(([weight]) => {
        at -= weight;
        return at < 0;
      });
      deed?.[1]();
    },
    createGang,
    createGroup,
    deleteGroup,
    deleteGang: (name) => ask(`delete gang ${name}`, "DELETE", paths.gang(name)),
    deleteMembers(name) {
      for (const workload of [...workloads.keys()]) if (workload.startsWith(`${name}-`)) deleteWorkload(workload);
    },
    deletePod(name) {
      const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
      if (pod === undefined) throw new Error(`no pod ${name}`);
      deletePod(pod, undefined);
    },
    strandClaim(name) {
      const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
      const claim = claims().find(({ metadata }) => metadata.ownerReferences?.[0]?.uid === pod?.metadata.uid);
      if (pod === undefined || claim?.status?.allocation === undefined) throw new Error(`no pod ${name} with devices`);
      const handle = (method: string, path: string, body: unknown) => api.handle({ user: "admin", method, path, body });
      say(`people: strand claim ${claim.metadata.name}`);
      handle("PATCH", paths.claim(claim.metadata.name), { metadata: { ownerReferences: null } });
      handle("PATCH", paths.claim(claim.metadata.name, "status"), { status: { reservedFor: null } });
      handle("DELETE", paths.pod(name), { gracePeriodSeconds: 0 });
    },
    stripClaim(name) {
      const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
      const claim = claims().find(({ metadata }) => metadata.ownerReferences?.[0]?.uid === pod?.metadata.uid);
      if (claim?.status?.allocation === undefined) throw new Error(`no pod ${name} with devices`);
      say(`people: strip claim ${claim.metadata.name}`);
      const body = { status: { reservedFor: null } };
      api.handle({ user: "admin", method: "PATCH", path: paths.claim(claim.metadata.name, "status"), body });
    },
    createPod: (devices) => createPod(devices, 1),
    wipeClaim(name) {
      const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
      if (pod?.status?.phase !== "Running") throw new Error(`no pod ${name} that runs`);
      wipeRunning(pod);
    },
    pin,
    takeTerm() {
      const term = store.get("plannerterms", plannerName) as unknown as { spec: PlannerTermSpec } | undefined;
      if (term === undefined) throw new Error("no term to take");
      say("people: take the planner's term");
      const spec = { holder: "somebody-else", epoch: term.spec.epoch + 1 };
      api.handle({ user: "admin", method: "PATCH", path: paths.term, body: { spec } });
    },
    nodeGone,
    nodeBack,
    overtake(path) {
      const [, kind, name = ""] = /\/(gangs|pods)\/([^/]+)\/(?:status|binding)$/.exec(path) ?? [];
      const key = `${namespace}/${name}`;
      if (kind === undefined || store.get(kind, key) === undefined) return;
      const handle = (method: string, body?: unknown) =>
        api.handle({ user: "admin", method, path: kind === "gangs" ? paths.gang(name) : paths.pod(name), body });
      say(`people: overtake a write to ${kind} ${name}`);
      if (kind === "gangs" && random.chance(0.7))
        handle("PATCH", { spec: { scheduleTimeoutSeconds: 5 + random.below(60) } });
      else handle("DELETE");
    },
    tidyUp() {
      for (const name of sketch.nodes) placeNode(name);
    },
    leave() {
      workloads.clear();
      for (const pod of pods()) api.handle({ user: "admin", method: "DELETE", path: paths.pod(pod.metadata.name) });
      for (const gang of gangs()) api.handle({ user: "admin", method: "DELETE", path: paths.gang(gang.metadata.name) });
      for (const { metadata } of claims()) {
        if (metadata.ownerReferences === undefined)
          api.handle({ user: "admin", method: "DELETE", path: paths.claim(metadata.name) });
      }
      for (const { metadata } of store.all("placementgroups").values()) {
        api.handle({ user: "admin", method: "DELETE", path: paths.group(metadata.name) });
      }
    },
  };
}
