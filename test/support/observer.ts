import type { Gang } from "../../src/api/gang.ts";
import type { KubernetesObject, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel, schedulingGroup, version } from "../../src/api/names.ts";
import { isNotFound, type KubeClient } from "../../src/kube/client.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { projectPod } from "../../src/kube/project.ts";
import { createReflector, type Reflector } from "../../src/kube/reflector.ts";

/**
 * Watches pods, claims, Gangs and events of a cluster, lets a test await what it expects, and keeps every revision so
 * that invariants can be judged over all of history.
 */
export interface Observer {
  pods(namespace?: string): Pod[];
  claims(namespace?: string): ResourceClaim[];
  gangs(namespace?: string): Gang[];
  gang(namespace: string, name: string): Gang | undefined;
  events(): ClusterEvent[];
  /**
   * Resolves with the first value other than undefined or false; rejects with what was seen last. It looks after every change
   * of any kind, and watches of several kinds are not in step: what is expected of another kind then needs `inStep`.
   */
  until<T>(what: string, found: () => T | undefined | false, timeoutMs?: number): Promise<T>;
  /** Resolves when all that the API server has now is seen, of every kind. */
  inStep(): Promise<void>;
  /** Every violation of "no device in two claims" and "no member bound of an uncommitted gang", at any revision. */
  violations(): string[];
  stop(): Promise<void>;
}

interface ClusterEvent extends KubernetesObject {
  type?: "Normal" | "Warning";
  reason: string;
  note?: string;
  regarding?: { kind: string; name: string; namespace?: string };
}

interface Revision {
  version: bigint;
  key: string;
  object: KubernetesObject;
  gone: boolean;
}

export async function observe(client: KubeClient): Promise<Observer> {
  const waiters = new Set<() => void>();
  const histories: Record<"pods" | "claims" | "gangs", Revision[]> = { pods: [], claims: [], gangs: [] };

  const followed: { reflector: Reflector<KubernetesObject>; path: string }[] = [];

  function watch<T extends KubernetesObject>(
    location: { group: string; version: string; resource: string },
    history?: Revision[],
  ): Reflector<T> {
    const path = resourcePath(location);
    const reflector = createReflector<T, T>({
      client,
      path,
      name: location.resource,
      // Tests measure how soon kllama is back: whoever looks has to be back before.
      longestPauseMs: 800,
      project: (raw) => raw,
      onChange: (change) => {
        if (change.type !== "replaced") {
          const object = change.type === "deleted" ? change.previous : change.value;
          history?.push({ version: versionOf(object), key: change.key, object, gone: change.type === "deleted" });
        }
        for (const waiter of [...waiters]) waiter();
      },
    });
    reflector.start();
    followed.push({ reflector, path });
    return reflector;
  }

  const pods = watch<Pod>({ group: "", version: "v1", resource: "pods" }, histories.pods);
  const claims = watch<ResourceClaim>(
    { group: "resource.k8s.io", version: "v1", resource: "resourceclaims" },
    histories.claims,
  );
  const gangs = watch<Gang>({ group: schedulingGroup, version, resource: "gangs" }, histories.gangs);
  const events = watch<ClusterEvent>({ group: "events.k8s.io", version: "v1", resource: "events" });
  await Promise.all(followed.map(({ reflector }) => reflector.waitForSync()));

  const of = <T extends KubernetesObject>(reflector: Reflector<T>, namespace?: string): T[] =>
    [...reflector.items.values()].filter((each) => namespace === undefined || each.metadata.namespace === namespace);

  function until<T>(what: string, found: () => T | undefined | false, timeoutMs = 60_000): Promise<T> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const value = found();
        if (value === undefined || value === false) return;
        finish();
        resolve(value);
      };
      const timer = setTimeout(() => {
        finish();
        reject(new Error(`not seen within ${timeoutMs} ms: ${what}\n${summary(of(gangs), of(pods), of(events))}`));
      }, timeoutMs);
      const finish = (): void => {
        clearTimeout(timer);
        waiters.delete(check);
      };
      waiters.add(check);
      check();
    });
  }

  return {
    pods: (namespace) => of(pods, namespace),
    claims: (namespace) => of(claims, namespace),
    gangs: (namespace) => of(gangs, namespace),
    gang: (namespace, name) => gangs.items.get(`${namespace}/${name}`),
    events: () => of(events),
    until,
    async inStep() {
      const seen = followed.map(async ({ reflector, path }) => {
        // Of a kind that is not there any more nothing is still to come.
        const list = await client.request<List>("GET", path).catch(unlessNotFound);
        if (list !== undefined) await until(`what ${path} tells`, () => hasSeen(reflector, list));
      });
      await Promise.all(seen);
    },
    violations: () => [...doubleDevices(histories.claims), ...uncommittedBindings(histories.pods, histories.gangs)],
    async stop() {
      await Promise.all(followed.map(({ reflector }) => reflector.stop()));
    },
  };
}

function unlessNotFound(error: unknown): undefined {
  if (!isNotFound(error)) throw error;
}

interface List {
  metadata: { resourceVersion: string };
  items: KubernetesObject[];
}

/** A watch tells changes in order of their versions. */
function hasSeen(reflector: Reflector<KubernetesObject>, { metadata, items }: List): boolean {
  if (reflector.resourceVersion === undefined) return false;
  const upTo = BigInt(reflector.resourceVersion);
  const listedAt = BigInt(metadata.resourceVersion);
  if (upTo >= listedAt) return true;
  if (items.some((item) => versionOf(item) > upTo)) return false;
  const listed = new Set(items.map((item) => item.metadata.uid));
  // What is shown beside the list is younger, or its end was not seen yet.
  return [...reflector.items.values()].every((item) => listed.has(item.metadata.uid) || versionOf(item) > listedAt);
}

const versionOf = ({ metadata }: KubernetesObject): bigint => BigInt(metadata.resourceVersion ?? "0");

function summary(gangs: readonly Gang[], pods: readonly Pod[], events: readonly ClusterEvent[]): string {
  const lines = gangs.map(
    (gang) =>
      `Gang ${gang.metadata.namespace}/${gang.metadata.name}: ${gang.status?.phase ?? "-"} ${gang.status?.members ?? ""} ${gang.status?.explanation ?? ""}`,
  );
  for (const pod of pods.slice(0, 40)) {
    const gates = pod.spec.schedulingGates?.length ?? 0;
    const why = pod.status?.conditions?.find((c) => c.type === "PodScheduled" && c.status === "False")?.message ?? "";
    const made = `${pod.status?.resourceClaimStatuses?.length ?? 0} of ${pod.spec.resourceClaims?.length ?? 0}`;
    const where = `node ${pod.spec.nodeName ?? "-"} gates ${gates} claims ${made}`;
    lines.push(`pod ${pod.metadata.name}: ${where} ${pod.status?.phase} ${why}`);
  }
  const warnings = events
    .filter(({ type }) => type === "Warning")
    .sort((a, b) => byVersion(versioned(a), versioned(b)));
  for (const { regarding, reason, note } of warnings.slice(-20)) {
    lines.push(`event of ${regarding?.kind} ${regarding?.namespace}/${regarding?.name}: ${reason}: ${note}`);
  }
  return lines.join("\n");
}

/** Replays all claim revisions in order of resourceVersion. */
function doubleDevices(history: readonly Revision[]): string[] {
  const found: string[] = [];
  const holder = new Map<string, string>();
  const held = new Map<string, string[]>();
  for (const { object, key, gone } of [...history].sort(byVersion)) {
    for (const device of held.get(key) ?? []) if (holder.get(device) === key) holder.delete(device);
    const results = gone ? [] : ((object as ResourceClaim).status?.allocation?.devices?.results ?? []);
    const devices = results.map((d) => `${d.driver}/${d.pool}/${d.device}#${d.shareID ?? ""}`);
    for (const device of devices) {
      const other = holder.get(device);
      if (other !== undefined && other !== key) found.push(`device ${device} in claims ${other} and ${key}`);
      holder.set(device, key);
    }
    held.set(key, devices);
  }
  return found;
}

/**
 * resourceVersions of one etcd are one order over all kinds: the Gang's newest status before a binding must be committed.
 * A pod that was created without the label, and asks for no marker, is no member, whatever label is put on it later.
 */
function uncommittedBindings(pods: readonly Revision[], gangs: readonly Revision[]): string[] {
  const found: string[] = [];
  const isMember = new Map<string, boolean>();
  const seen = new Set<string>();
  for (const { object, version: boundAt } of [...pods].sort(byVersion)) {
    const pod = object as Pod;
    const uid = pod.metadata.uid ?? "";
    const gang = pod.metadata.labels?.[gangLabel];
    if (!isMember.has(uid)) isMember.set(uid, gang !== undefined || projectPod(pod).bindMarker);
    if (gang === undefined || isMember.get(uid) !== true || pod.spec.nodeName === undefined || seen.has(uid)) continue;
    seen.add(uid);
    const key = `${pod.metadata.namespace}/${gang}`;
    const before = gangs.filter((revision) => revision.key === key && revision.version < boundAt);
    const phase = (before.sort(byVersion).at(-1)?.object as Gang | undefined)?.status?.phase;
    if (phase !== "Binding" && phase !== "Scheduled") {
      found.push(`pod ${pod.metadata.name} bound at ${boundAt} while gang ${key} is ${phase ?? "unknown"}`);
    }
  }
  return found;
}

const versioned = (object: KubernetesObject) => ({ version: versionOf(object) });

function byVersion(a: Pick<Revision, "version">, b: Pick<Revision, "version">): number {
  return a.version < b.version ? -1 : a.version > b.version ? 1 : 0;
}
