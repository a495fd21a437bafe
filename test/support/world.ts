import { gangSpec } from "../../src/api/gang.ts";
import { gangGate, schedulingGroup } from "../../src/api/names.ts";
import { type Coordinator, createCoordinator } from "../../src/extender/coordinator.ts";
import type { WriteEffect } from "../../src/extender/effects.ts";
import { defaultLimits, type PlannerLimits } from "../../src/extender/limits.ts";
import { podConsumer } from "../../src/gang/lifecycle/claims.ts";
import type { GangRecord, Outcome } from "../../src/gang/lifecycle/state.ts";
import { createClusterModel } from "../../src/topology/model.ts";
import type { ClaimRecord, NodeRecord, PodRecord, SliceRecord } from "../../src/topology/records.ts";

/**
 * A small world around the real coordinator, planner and model: an API server of records with resourceVersions and a
 * watch per kind, kube-controller-manager's claims, kube-scheduler's bind calls. Every choice comes from a tape of
 * numbers, so a failing run replays and shrinks. What must hold at every write is checked at every write.
 */
export interface WorldOptions {
  nodes: number;
  devicesPerNode: number;
  limits?: Partial<PlannerLimits>;
  gangs: { name: string; pods: number; devices: number; timeoutSeconds?: number; minCount?: number }[];
}

type Kind = "gangs" | "pods" | "claims" | "nodes";
type Change = { type: "set" | "gone"; value: unknown };
type BindCall = { call: number; pod: PodRecord; node: string };

const driver = "gpu.kllama.ai";

export class World {
  readonly gangs = new Map<string, GangRecord>();
  readonly pods = new Map<string, PodRecord>();
  readonly claims = new Map<string, ClaimRecord>();
  readonly nodes = new Map<string, NodeRecord>();
  readonly slices: SliceRecord[];
  /** Everything that happened, for the message of a failed run. */
  readonly trace: string[] = [];
  private version = 1;
  private uids = 0;
  private nowMs = 1_000_000;
  private readonly options: WorldOptions;
  private watches: Record<Kind, Change[]> = { gangs: [], pods: [], claims: [], nodes: [] };
  private writes: { effect: WriteEffect; owner: string }[] = [];
  /** Most members that were released and not bound at a time. */
  mostReleased = 0;
  /** Writes that the planner asked for so far. */
  asked = 0;
  private calls: BindCall[] = [];
  private lastCall = 0;
  /** pod UID → when kube-scheduler takes it up again after a failed cycle. */
  private readonly retries = new Map<string, number>();
  /** Pods whose bind call failed or broke off: kube-scheduler takes them off their claims, some time later. */
  private readonly unreserving = new Map<string, PodRecord>();
  /** UIDs of pods that were ever taken off a claim: a binding may have been under way. */
  private readonly takenOff = new Set<string>();
  /** Effects whose answer was lost: the planner does not know of them until the watch tells. */
  private readonly lost = new Set<string>();
  /** Gangs that were deleted after their commit: a binding may have been under way. */
  private readonly committed = new Set<string>();
  /** UIDs of pods for which kube-scheduler ever called `bind`. */
  private readonly called = new Set<string>();
  private coordinator!: Coordinator;
  private wakeAtMs = Number.POSITIVE_INFINITY;

  constructor(options: WorldOptions) {
    this.options = options;
    this.slices = [];
    for (let n = 0; n < options.nodes; n++) {
      const name = `n${n}`;
      this.nodes.set(name, node(name));
      this.slices.push(slice(name, options.devicesPerNode));
    }
    this.restart();
  }

  // ---- the planner process --------------------------------------------------------------------------------------

  /** kill -9: everything in memory is lost, calls break, writes under way may or may not have happened. */
  restart(): void {
    this.trace.push("restart");
    this.writes = [];
    for (const { pod } of this.calls) this.backOff(pod);
    this.calls = [];
    this.watches = { gangs: [], pods: [], claims: [], nodes: [] };
    this.wakeAtMs = Number.POSITIVE_INFINITY;
    const model = createClusterModel({ managedDrivers: [driver] });
    model.upsertDeviceClass({
      name: driver,
      selectors: [{ cel: { expression: `device.driver == "${driver}"` } }],
      config: [],
    });
    const coordinator = createCoordinator(
      model,
      new Set([driver]),
      {
        write: (effect, owner) => {
          const said = effect.type === "writeStatus" ? `${effect.status.phase} ${effect.status.explanation ?? ""}` : "";
          this.trace.push(`ask ${owner} ${effect.id} ${said}`.trimEnd());
          this.checkDecision(effect, owner);
          this.writes.push({ effect, owner });
          this.asked += 1;
        },
        event: () => undefined,
        answer: (call, error) => {
          this.trace.push(`answer ${call} ${error ?? "bound"}`);
          const held = this.calls.find((each) => each.call === call);
          if (held !== undefined && error !== undefined) this.backOff(held.pod);
          this.calls = this.calls.filter((held) => held.call !== call);
        },
        nowMs: () => this.nowMs,
        nowIso: () => new Date(this.nowMs).toISOString().replace(/\.\d+Z$/, "Z"),
        schedule: (delayMs) => {
          this.wakeAtMs = Math.min(this.wakeAtMs, this.nowMs + delayMs);
        },
        planned: () => undefined,
        planRefused: () => undefined,
        bypassed: () => undefined,
      },
      { ...defaultLimits, ...this.options.limits },
    );
    this.coordinator = coordinator;
    for (const each of this.nodes.values()) coordinator.observeNode(each);
    for (const each of this.slices) model.upsertSlice(each);
    for (const each of this.pods.values()) coordinator.observePod(each);
    for (const each of this.claims.values()) coordinator.observeClaim(each);
    for (const each of this.gangs.values()) coordinator.observeGang(each);
    coordinator.activate();
  }

  /** One random thing happens. Mostly things go well: only then is there something that can go wrong. */
  act(choice: number): void {
    const honest = choice % 8 === 0 ? undefined : this.nextHonest();
    const possible = honest === undefined ? this.possible() : [honest];
    const action = possible[Math.floor(choice / 8) % possible.length];
    action?.();
  }

  private possible(): (() => void)[] {
    const actions: (() => void)[] = [];
    for (const kind of ["gangs", "pods", "claims", "nodes"] as const) {
      if (this.watches[kind].length > 0) actions.push(() => this.deliver(kind));
    }
    if (this.wakeAtMs <= this.nowMs) actions.push(() => this.flush());
    else if (this.wakeAtMs !== Number.POSITIVE_INFINITY) actions.push(() => this.advance(this.wakeAtMs - this.nowMs));
    for (const write of this.writes.slice(0, 4)) {
      actions.push(
        () => this.finishWrite(write, "ok"),
        () => this.finishWrite(write, "ok"),
        () => this.finishWrite(write, "lost"),
        () => this.finishWrite(write, "failed"),
      );
    }
    for (const pod of this.schedulable().slice(0, 4)) actions.push(() => this.callBind(pod));
    for (const call of this.calls.slice(0, 2)) actions.push(() => this.hangUp(call));
    for (const pod of this.unreserving.values()) actions.push(() => this.unreserveFailed(pod));
    actions.push(...this.controllerActions().slice(0, 4));
    for (const gang of this.options.gangs) actions.push(...this.userActions(gang));
    actions.push(
      () => this.restart(),
      () => this.advance(700),
      () => this.advance(6_000),
      () => this.toggleNode(),
      () => this.toggleCordon(),
    );
    return actions;
  }

  /** Everything happens, nothing fails any more, until nothing is left to happen. Throws when that takes for ever. */
  settle(rounds = 20_000): void {
    for (let round = 0; round < rounds; round++) {
      const action = this.nextHonest();
      if (action === undefined) return;
      action();
    }
    throw new Error(`the world does not come to rest:\n${this.trace.slice(-60).join("\n")}`);
  }

  private nextHonest(): (() => void) | undefined {
    for (const kind of ["gangs", "pods", "claims", "nodes"] as const) {
      if (this.watches[kind].length > 0) return () => this.deliver(kind);
    }
    if (this.wakeAtMs <= this.nowMs) return () => this.flush();
    const write = this.writes[0];
    if (write !== undefined) return () => this.finishWrite(write, "ok");
    const failed = [...this.unreserving.values()][0];
    if (failed !== undefined) return () => this.unreserveFailed(failed);
    const controller = this.controllerActions()[0];
    if (controller !== undefined) return controller;
    const waiting = this.schedulable()[0];
    if (waiting !== undefined) return () => this.callBind(waiting);
    const nextMs = Math.min(this.wakeAtMs, ...[...this.retries.values()].filter((atMs) => atMs > this.nowMs));
    return nextMs === Number.POSITIVE_INFINITY ? undefined : () => this.advance(nextMs - this.nowMs);
  }

  private flush(): void {
    this.wakeAtMs = Number.POSITIVE_INFINITY;
    this.coordinator.flush();
  }

  private advance(milliseconds: number): void {
    this.nowMs += Math.max(1, Math.ceil(milliseconds));
  }

  private deliver(kind: Kind): void {
    const change = this.watches[kind].shift();
    if (change === undefined) return;
    const { coordinator } = this;
    if (kind === "gangs") {
      const gang = change.value as GangRecord;
      change.type === "set" ? coordinator.observeGang(gang) : coordinator.observeGangGone(gang);
    } else if (kind === "pods") {
      const pod = change.value as PodRecord;
      change.type === "set" ? coordinator.observePod(pod) : coordinator.observePodGone(pod.uid);
    } else if (kind === "claims") {
      const claim = change.value as ClaimRecord;
      change.type === "set" ? coordinator.observeClaim(claim) : coordinator.observeClaimGone(claim);
    } else {
      const each = change.value as NodeRecord;
      change.type === "set" ? coordinator.observeNode(each) : coordinator.observeNodeGone(each.name);
    }
  }

  // ---- the API server ---------------------------------------------------------------------------------------------

  private next(): string {
    this.version += 1;
    return String(this.version);
  }

  private setGang(gang: GangRecord): GangRecord {
    const stored = { ...gang, resourceVersion: this.next() };
    this.gangs.set(`${gang.namespace}/${gang.name}`, stored);
    this.watches.gangs.push({ type: "set", value: stored });
    return stored;
  }

  private setPod(pod: PodRecord): PodRecord {
    const stored = { ...pod, resourceVersion: this.next() };
    this.pods.set(pod.uid, stored);
    this.watches.pods.push({ type: "set", value: stored });
    return stored;
  }

  private setClaim(claim: ClaimRecord): ClaimRecord {
    const stored = { ...claim, resourceVersion: this.next() };
    this.claims.set(claim.name, stored);
    this.watches.claims.push({ type: "set", value: stored });
    this.checkDevices();
    return stored;
  }

  private finishWrite(write: { effect: WriteEffect; owner: string }, how: "ok" | "lost" | "failed"): void {
    this.writes = this.writes.filter((other) => other !== write);
    const { effect, owner } = write;
    const lost: Outcome = { ok: false, reason: "Unreachable", message: "connection reset" };
    if (how === "failed") {
      this.trace.push(`failed ${owner} ${effect.id}`);
      this.coordinator.written(effect, owner, { outcome: lost });
      return;
    }
    const result = this.applyEffect(effect);
    this.trace.push(`${how} ${owner} ${effect.id} → ${result.outcome.ok ? "done" : result.outcome.reason}`);
    if (how === "lost") this.lost.add(effect.id);
    this.coordinator.written(effect, owner, how === "lost" ? { outcome: lost } : result);
  }

  private applyEffect(effect: WriteEffect): {
    outcome: Outcome;
    gang?: GangRecord;
    pod?: PodRecord;
    claim?: ClaimRecord;
  } {
    const done: Outcome = { ok: true };
    const conflict = { outcome: { ok: false, reason: "Conflict", message: "the object was modified" } as Outcome };
    const notFound = { outcome: { ok: false, reason: "NotFound", message: "not found" } as Outcome };
    switch (effect.type) {
      case "writeStatus": {
        const gang = this.gangs.get(`${effect.gang.namespace}/${effect.gang.name}`);
        if (gang === undefined) return notFound;
        if (gang.uid !== effect.gang.uid || gang.resourceVersion !== effect.gang.resourceVersion) return conflict;
        const { reservedAtMs: _, ...rest } = gang;
        const at = effect.status.reservedAt;
        const status = JSON.parse(JSON.stringify(effect.status));
        return {
          outcome: done,
          gang: this.setGang({ ...rest, status, ...(at === undefined ? {} : { reservedAtMs: Date.parse(at) }) }),
        };
      }
      case "reserveClaim":
      case "clearClaim":
      case "dropGuard": {
        const claim = this.claims.get(effect.claim.name);
        if (claim === undefined) return notFound;
        if (claim.uid !== effect.claim.uid || claim.resourceVersion !== effect.claim.resourceVersion) return conflict;
        if (effect.type === "clearClaim") {
          const user = this.pods.get(claim.ownerPodUid ?? "");
          if (user?.nodeName !== undefined && !this.lost.has(`bind/${user.uid}`))
            this.fail(`claim ${claim.name} of the bound pod ${user.name} is cleared`);
          const { allocation: _, ...rest } = claim;
          return { outcome: done, claim: this.setClaim({ ...rest, reservedFor: [] }) };
        }
        if (effect.type === "dropGuard") {
          return { outcome: done, claim: this.setClaim({ ...claim, reservedFor: effect.reservedFor }) };
        }
        const allocation = {
          devices: { results: effect.placed.devices },
          nodeSelector: {
            nodeSelectorTerms: [
              { matchFields: [{ key: "metadata.name", operator: "In" as const, values: [effect.node] }] },
            ],
          },
        };
        return { outcome: done, claim: this.setClaim({ ...claim, allocation, reservedFor: effect.reservedFor }) };
      }
      case "releasePod": {
        const pod = this.pods.get(effect.pod.uid);
        if (pod === undefined) return notFound;
        this.mostReleased = Math.max(this.mostReleased, 1 + this.releasedPods());
        const nominated = effect.node === "" ? {} : { nominatedNodeName: effect.node };
        return {
          outcome: done,
          pod: this.setPod({ ...pod, ...nominated, gates: pod.gates.filter((g) => g !== gangGate) }),
        };
      }
      case "tellPod": {
        const pod = this.pods.get(effect.pod.uid);
        if (pod === undefined) return notFound;
        return { outcome: done, pod: this.setPod({ ...pod, gangCondition: effect.status }) };
      }
      case "disruptPod": {
        if (!this.pods.has(effect.pod.uid)) return notFound;
        this.deletePod(effect.pod.uid);
        return { outcome: done };
      }
      case "bind": {
        const pod = this.pods.get(effect.pod.uid);
        if (pod === undefined || pod.deleting) return notFound;
        if (pod.nodeName === effect.node) return { outcome: done, pod };
        if (pod.nodeName !== undefined) return conflict;
        this.checkBinding(pod, effect.node);
        this.setPod({ ...pod, nodeName: effect.node });
        return { outcome: done };
      }
    }
  }

  private releasedPods(): number {
    return [...this.pods.values()].filter((pod) => pod.gates.length === 0 && pod.nodeName === undefined).length;
  }

  /** Invariant 1: no device in two claims, ever. */
  private checkDevices(): void {
    const holders = new Map<string, string>();
    for (const claim of this.claims.values()) {
      for (const { pool, device } of claim.allocation?.devices?.results ?? []) {
        const key = `${pool}/${device}`;
        const other = holders.get(key);
        if (other !== undefined) this.fail(`device ${key} is held by ${other} and ${claim.name}`);
        holders.set(key, claim.name);
      }
    }
  }

  /** What the planner knew when it decided; the world may have moved on since. */
  private checkDecision(effect: WriteEffect, owner: string): void {
    const state = this.coordinator.state(owner);
    const known = new Map([...(state?.pods.values() ?? [])].map((pod) => [pod.name, pod]));
    if (effect.type === "writeStatus" && effect.transition === "Binding") {
      for (const { pod } of effect.status.placement?.pods ?? []) {
        if (!this.called.has(known.get(pod)?.uid ?? ""))
          this.fail(`gang ${owner} commits without ${pod} at the barrier`);
      }
    }
    if (effect.type !== "bind") return;
    const phase = state?.gang?.status.phase;
    if (phase !== "Binding" && phase !== "Scheduled") this.fail(`${effect.id} is asked for in phase ${phase}`);
  }

  /** Invariant 2: no member is bound of a gang that is not committed, or without its gate lifted and its devices. */
  private checkBinding(pod: PodRecord, node: string): void {
    const phase = this.gangs.get(`${pod.namespace}/${pod.gang}`)?.status.phase ?? "deleted";
    if (phase === "Pending" || phase === "Reserved" || phase === "Revoked") {
      if (!this.committed.has(`${pod.namespace}/${pod.gang}`)) this.fail(`pod ${pod.name} is bound in phase ${phase}`);
    }
    if (pod.gates.length > 0) this.fail(`pod ${pod.name} is bound while gated`);
    for (const { claimName = "" } of pod.claims) {
      const claim = this.claims.get(claimName);
      const ours = this.takenOff.has(pod.uid) || claim?.reservedFor.some((consumer) => consumer.uid === pod.uid);
      const reserved = claim !== undefined && ours && nodeOf(claim) === node;
      if (!reserved && !this.lost.has(`claim/${claimName}`)) this.fail(`pod ${pod.name} is bound without its devices`);
    }
  }

  fail(message: string): never {
    throw new Error(`${message}\n${this.trace.slice(-80).join("\n")}`);
  }

  // ---- kube-controller-manager and kube-scheduler -------------------------------------------------------------------

  /** Claims are made for pods, and unmade: consumers that are gone leave, unused claims are deallocated and deleted. */
  private controllerActions(): (() => void)[] {
    const actions: (() => void)[] = [];
    for (const pod of this.pods.values()) {
      const missing = pod.claims.some((reference) => reference.claimName === undefined);
      if (missing && !pod.deleting) actions.push(() => this.createClaim(pod));
    }
    for (const claim of this.claims.values()) {
      const user = this.pods.get(claim.ownerPodUid ?? "");
      const running = user?.nodeName !== undefined && claim.allocation !== undefined;
      if (running && !claim.reservedFor.some((consumer) => consumer.uid === user.uid)) {
        actions.push(() => this.setClaim({ ...claim, reservedFor: [...claim.reservedFor, podConsumer(user)] }));
        continue;
      }
      const goneConsumers = claim.reservedFor.filter((c) => c.resource === "pods" && !this.pods.has(c.uid));
      if (goneConsumers.length > 0) {
        actions.push(() => this.unreserve(claim.name));
      } else if (
        claim.ownerPodUid !== undefined &&
        !this.pods.has(claim.ownerPodUid) &&
        claim.reservedFor.length === 0
      ) {
        actions.push(() => this.deleteClaim(claim.name));
      }
    }
    return actions;
  }

  private createClaim(pod: PodRecord): void {
    const name = `${pod.name}-gpus-${pod.uid}`;
    const current = this.pods.get(pod.uid);
    if (current === undefined) return;
    const devices = this.options.gangs.find((gang) => gang.name === pod.gang)?.devices ?? 1;
    this.setClaim({
      uid: this.uid(),
      namespace: pod.namespace,
      name,
      resourceVersion: "0",
      spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName: driver, count: devices } }] } },
      reservedFor: [],
      finalizers: [],
      deleting: false,
      ownerPodUid: pod.uid,
    });
    this.setPod({ ...current, claims: [{ name: "gpus", claimName: name }] });
  }

  private unreserve(name: string): void {
    const claim = this.claims.get(name);
    if (claim === undefined) return;
    const reservedFor = claim.reservedFor.filter((c) => c.resource !== "pods" || this.pods.has(c.uid));
    const { allocation, ...rest } = claim;
    this.trace.push(`controller unreserves ${name}`);
    this.setClaim({
      ...rest,
      reservedFor,
      ...(reservedFor.length === 0 || allocation === undefined ? {} : { allocation }),
    });
  }

  private deleteClaim(name: string): void {
    const claim = this.claims.get(name);
    if (claim === undefined) return;
    this.claims.delete(name);
    this.trace.push(`controller deletes ${name}`);
    this.watches.claims.push({ type: "gone", value: claim });
  }

  /** Pods that kube-scheduler would carry to its bind call now. */
  private schedulable(): PodRecord[] {
    return [...this.pods.values()].filter((pod) => {
      if (pod.gates.length > 0 || pod.nodeName !== undefined || pod.deleting) return false;
      if ((this.retries.get(pod.uid) ?? 0) > this.nowMs) return false;
      if (this.unreserving.has(pod.uid) || this.calls.some((call) => call.pod.uid === pod.uid)) return false;
      return pod.claims.every((reference) => {
        const claim = this.claims.get(reference.claimName ?? "");
        return claim?.allocation !== undefined && claim.reservedFor.some((consumer) => consumer.uid === pod.uid);
      });
    });
  }

  private callBind(pod: PodRecord): void {
    const claim = this.claims.get(pod.claims[0]?.claimName ?? "");
    const target = claim === undefined ? undefined : nodeOf(claim);
    if (target === undefined) return;
    this.lastCall += 1;
    const call = this.lastCall;
    this.trace.push(`bind call ${call} of ${pod.name} to ${target}`);
    this.called.add(pod.uid);
    this.calls.push({ call, pod, node: target });
    if (this.coordinator.arrive(pod.uid, target, call) === undefined) {
      this.calls = this.calls.filter((held) => held.call !== call);
      this.backOff(pod);
    }
  }

  /** Also a pod that was bound all the same is taken off its claims: the call's answer never came. */
  private backOff(pod: PodRecord): void {
    this.retries.set(pod.uid, this.nowMs + 1_000);
    this.unreserving.set(pod.uid, pod);
  }

  private unreserveFailed(pod: PodRecord): void {
    this.unreserving.delete(pod.uid);
    for (const { claimName = "" } of pod.claims) {
      const claim = this.claims.get(claimName);
      if (!claim?.reservedFor.some((consumer) => consumer.uid === pod.uid)) continue;
      this.takenOff.add(pod.uid);
      this.trace.push(`scheduler takes ${pod.name} off ${claimName}`);
      this.setClaim({ ...claim, reservedFor: claim.reservedFor.filter((consumer) => consumer.uid !== pod.uid) });
    }
  }

  private hangUp(held: BindCall): void {
    this.trace.push(`hang up ${held.call}`);
    this.calls = this.calls.filter((call) => call !== held);
    this.backOff(held.pod);
    this.coordinator.leave(held.pod.uid, held.call);
  }

  // ---- people -------------------------------------------------------------------------------------------------------

  private userActions(gang: WorldOptions["gangs"][number]): (() => void)[] {
    const key = `default/${gang.name}`;
    const actions: (() => void)[] = [];
    if (!this.gangs.has(key)) return [() => this.createGang(gang)];
    const names = new Set([...this.pods.values()].map((pod) => pod.name));
    for (let index = 0; index < gang.pods; index++) {
      if (!names.has(`${gang.name}-${index}`)) actions.push(() => this.createPod(gang.name, index));
    }
    if (actions.length > 0) return actions;
    for (const pod of [...this.pods.values()].filter((each) => each.gang === gang.name)) {
      actions.push(
        () => this.deletePod(pod.uid),
        () => this.recreatePod(pod),
      );
    }
    actions.push(() => this.deleteGang(gang.name));
    return actions;
  }

  createGang(gang: WorldOptions["gangs"][number]): void {
    this.trace.push(`create gang ${gang.name}`);
    this.setGang({
      namespace: "default",
      name: gang.name,
      uid: this.uid(),
      generation: 1,
      resourceVersion: "0",
      deleting: false,
      createdAtMs: this.nowMs,
      labels: {},
      spec: gangSpec.parse({
        podSets: [{ name: "ranks", count: gang.pods, minCount: gang.minCount ?? gang.pods }],
        scheduleTimeoutSeconds: gang.timeoutSeconds ?? 600,
      }),
      problems: [],
      status: {},
    });
  }

  createPod(gang: string, index: number): void {
    const uid = this.uid();
    this.trace.push(`create pod ${gang}-${index} ${uid}`);
    this.setPod({
      uid,
      namespace: "default",
      name: `${gang}-${index}`,
      gang,
      index,
      createdAtMs: this.nowMs,
      priority: 0,
      schedulerName: "default-scheduler",
      gates: [gangGate],
      bindMarker: true,
      terminal: false,
      deleting: false,
      ready: false,
      requests: { cpu: 100, pods: 1 },
      claims: [{ name: "gpus", templateName: "gpus" }],
      nodeSelector: {},
      tolerations: [],
    });
  }

  deletePod(uid: string): void {
    const pod = this.pods.get(uid);
    if (pod === undefined) return;
    this.trace.push(`delete pod ${pod.name} ${uid}`);
    this.pods.delete(uid);
    this.watches.pods.push({ type: "gone", value: pod });
    this.calls = this.calls.filter((call) => call.pod.uid !== uid);
  }

  /** As a StatefulSet does: gone and back before anybody looked. */
  private recreatePod(pod: PodRecord): void {
    this.deletePod(pod.uid);
    this.createPod(pod.gang ?? "", pod.index ?? 0);
  }

  deleteGang(name: string): void {
    const gang = this.gangs.get(`default/${name}`);
    if (gang === undefined) return;
    this.trace.push(`delete gang ${name}`);
    if (gang.status.phase === "Binding" || gang.status.phase === "Scheduled") this.committed.add(`default/${name}`);
    this.gangs.delete(`default/${name}`);
    this.watches.gangs.push({ type: "gone", value: gang });
  }

  loseNode(name: string): void {
    const lost = this.nodes.get(name);
    if (lost === undefined) return;
    this.trace.push(`lose node ${name}`);
    this.nodes.delete(name);
    this.watches.nodes.push({ type: "gone", value: lost });
  }

  /** The last node goes or comes back; pods that ran on it go with it, as the node lifecycle would have it. */
  private toggleNode(): void {
    const name = `n${this.options.nodes - 1}`;
    if (this.nodes.has(name)) {
      this.loseNode(name);
      for (const pod of [...this.pods.values()]) if (pod.nodeName === name) this.deletePod(pod.uid);
      return;
    }
    this.trace.push(`node ${name} is back`);
    const back = node(name);
    this.nodes.set(name, back);
    this.watches.nodes.push({ type: "set", value: back });
  }

  /** The first node is drained by somebody, or taken back: what runs there stays. */
  private toggleCordon(): void {
    const first = this.nodes.get("n0");
    if (first === undefined) return;
    const unschedulable = !first.unschedulable;
    this.trace.push(`n0 is ${unschedulable ? "cordoned" : "open again"}`);
    const changed = { ...first, unschedulable };
    this.nodes.set("n0", changed);
    this.watches.nodes.push({ type: "set", value: changed });
  }

  /** Devices that pods of `devices` each could get now: how many such pods fit. */
  roomFor(devices: number): number {
    const used = new Map<string, Set<string>>();
    const take = (pool: string, device: string) => used.set(pool, (used.get(pool) ?? new Set()).add(device));
    for (const claim of this.claims.values()) {
      for (const { pool, device } of claim.allocation?.devices?.results ?? []) take(pool, device);
    }
    for (const { status } of this.gangs.values()) {
      if (status.phase === "Pending") continue;
      for (const { pool, device } of (status.placement?.pods ?? []).flatMap((pod) =>
        pod.claims.flatMap((c) => c.devices),
      ))
        take(pool, device);
    }
    const open = [...this.nodes.values()].filter((each) => !each.unschedulable);
    const free = open.map(({ name }) => this.options.devicesPerNode - (used.get(name)?.size ?? 0));
    return free.reduce((sum, count) => sum + Math.floor(count / devices), 0);
  }

  private uid(): string {
    this.uids += 1;
    return `u${this.uids}`;
  }

  /** Claims that carry the guard of a Gang. */
  guarded(): string[] {
    return [...this.claims.values()]
      .filter((claim) => claim.reservedFor.some((consumer) => consumer.apiGroup === schedulingGroup))
      .map((claim) => claim.name);
  }
}

/** The node that an allocated claim is bound to. */
function nodeOf(claim: ClaimRecord): string | undefined {
  return claim.allocation?.nodeSelector?.nodeSelectorTerms[0]?.matchFields?.[0]?.values?.[0];
}

function node(name: string): NodeRecord {
  return {
    name,
    uid: name,
    labels: { "kubernetes.io/hostname": name },
    taints: [],
    unschedulable: false,
    ready: true,
    allocatable: { cpu: 64_000, memory: 2 ** 38, pods: 110 },
  };
}

function slice(name: string, devices: number): SliceRecord {
  return {
    name: `${name}-${driver}`,
    driver,
    pool: name,
    generation: 1,
    resourceSliceCount: 1,
    nodeName: name,
    devices: Array.from({ length: devices }, (_, index) => ({
      name: `gpu-${index}`,
      attributes: { type: { string: "gpu" } },
    })),
    sharedCounters: [],
  };
}
