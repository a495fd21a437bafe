import type { Node, Pod, PodDisruptionBudget, ResourceClaim, ResourceClaimTemplate } from "../../api/kubernetes.ts";
import { version } from "../../api/names.ts";
import { type Rejection, rejectionOf } from "../../api/placement.ts";
import { defined } from "../../kube/defined.ts";
import type { DocumentProblem, SourceObject } from "../../kube/documents.ts";
import {
  projectBudget,
  projectClaim,
  projectDeviceClass,
  projectGang,
  projectNode,
  projectPlacementGroup,
  projectPod,
  projectSlice,
  projectTaintRule,
  projectTopology,
} from "../../kube/project.ts";
import { deviceKey } from "../../topology/held.ts";
import { builtInTopology } from "../../topology/levels.ts";
import type { ClusterState } from "../cluster-state.ts";
import { asAdmitted, countedBudget, readyNode, readyPod, youngest } from "./assumed.ts";
import { checked, fieldName, isCustom, podGroupFaults } from "./check.ts";
import type { Violation } from "./custom-rules.ts";
import { claimsFor, isOneByOne, type KindedObject, ofCluster, podsOf } from "./expand.ts";
import { adaptPodGroup, isPodGroup, podsOfGroup } from "./pod-groups.ts";

/** A cluster and its work, read from files. */
export interface PlanInput {
  readonly state: ClusterState;
  /** What could not be used; everything else is planned. */
  readonly problems: DocumentProblem[];
  /** What was assumed or left out. */
  readonly notes: string[];
  /** Gangs that ask for something impossible, by `namespace/name`. */
  readonly refused: ReadonlyMap<string, Rejection>;
  /** UIDs of claims that were made from templates. */
  readonly made: ReadonlySet<string>;
  /** `Gang namespace/name`, `Pod namespace/name` → the object of the input that it comes from. */
  readonly sources: ReadonlyMap<string, InputObject>;
}

/** An object as people name it. */
interface InputObject {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

/** Objects of one origin. `planned`: what controllers would make of them is made. */
export interface Origin {
  readonly objects: readonly SourceObject[];
  readonly planned: boolean;
}

/** Objects of a live cluster as records; what cannot be read is left out, and `warn` is told. */
export function assembleObjects(objects: readonly KindedObject[], warn: (text: string) => void): ClusterState {
  const sources = objects.map((object): SourceObject => ({ object, file: "", line: () => 0 }));
  const { state, problems } = assembleInput([{ objects: sources, planned: false }], []);
  for (const { reason } of problems) warn(`${reason}; it is left out`);
  return state;
}

/** Kind → API groups whose kind of that name is meant. */
const groups: Readonly<Record<string, string>> = {
  Node: "",
  Pod: "",
  ResourceSlice: "resource.k8s.io",
  DeviceTaintRule: "resource.k8s.io",
  DeviceClass: "resource.k8s.io",
  ResourceClaim: "resource.k8s.io",
  ResourceClaimTemplate: "resource.k8s.io",
  StatefulSet: "apps",
  Deployment: "apps",
  PriorityClass: "scheduling.k8s.io",
  PodDisruptionBudget: "policy",
};
const clusterWide = new Set([
  "Node",
  "ResourceSlice",
  "DeviceTaintRule",
  "DeviceClass",
  "ClusterTopology",
  "PriorityClass",
]);

/** Older versions of the DRA kinds have other fields, but for rules. */
const draVersions = new Set(["resource.k8s.io/v1", "resource.k8s.io/v1beta2"]);
const ruleVersion = "resource.k8s.io/v1alpha3";

interface Entry {
  object: KindedObject;
  source?: SourceObject;
  planned: boolean;
}

/** By kind and `namespace/name`. */
type Store = Map<string, Map<string, Entry>>;

/**
 * Brings objects together as an API server and its controllers would. Later origins replace objects of earlier ones;
 * within one origin an object that is there twice is a problem, and the first counts.
 * @param deviceClasses kllama's own, for inputs that name none
 */
export function assembleInput(origins: readonly Origin[], deviceClasses: readonly KindedObject[]): PlanInput {
  const problems: DocumentProblem[] = [];
  const notes: string[] = [];
  const refused = new Map<string, Rejection>();
  const store: Store = new Map();
  const ignored = new Map<string, number>();
  for (const { objects, planned } of origins) {
    const seen = new Map<string, SourceObject>();
    for (const source of objects) {
      if (!isUsed(source.object)) ignored.set(source.object.kind, (ignored.get(source.object.kind) ?? 0) + 1);
      else take(source, planned, { store, seen, problems, notes, refused });
    }
  }
  if (ignored.size > 0) {
    const counts = [...ignored].sort(([a], [b]) => (a < b ? -1 : 1)).map(([kind, count]) => `${count} ${kind}`);
    notes.push(`not used: ${counts.join(", ")}`);
  }
  addDeviceClasses(store, origins, deviceClasses, notes);
  runControllers(store, notes);
  const topologies = [...adaptPodGroups(store, { notes, problems, refused })];
  const made = makeClaims(store, notes, new Set(templatesOf(origins)));
  notes.push(...heldTwice(store));
  const state = project(store, topologies, problems);
  return { state, problems, notes, refused, made, sources: sourcesOf(store) };
}

function sourcesOf(store: Store): Map<string, InputObject> {
  const sources = new Map<string, InputObject>();
  for (const kind of ["Gang", "Pod"]) {
    for (const [key, { source }] of entriesOf(store, kind)) {
      if (source === undefined) continue;
      const { kind: from, metadata } = withNamespace(source.object);
      sources.set(`${kind} ${key}`, { kind: from, namespace: metadata.namespace ?? "", name: metadata.name });
    }
  }
  return sources;
}

function isUsed({ apiVersion, kind }: KindedObject): boolean {
  if (isCustom({ apiVersion, kind }) || isPodGroup({ apiVersion, kind })) return true;
  const group = apiVersion.includes("/") ? apiVersion.slice(0, apiVersion.indexOf("/")) : "";
  return groups[kind] === group;
}

/** Where objects, and what is to be said of them, are put. */
interface Told {
  store: Store;
  seen: Map<string, SourceObject>;
  problems: DocumentProblem[];
  notes: string[];
  refused: Map<string, Rejection>;
}

function take(source: SourceObject, planned: boolean, into: Told): void {
  const named = withNamespace(source.object);
  const { kind, apiVersion } = named;
  const key = keyOf(named);
  const title = `${kind} ${key}`;
  const complain = (path: readonly (string | number)[], reason: string): void => {
    into.problems.push({ file: source.file, line: source.line(path), reason: `${title}: ${reason}` });
  };
  const written = readVersion(named);
  const first = into.seen.get(title);
  if (first !== undefined) {
    complain([], `is there twice, first in ${first.file}:${first.line()}; the first counts, remove one`);
    return;
  }
  into.seen.set(title, source);
  if (written !== undefined) {
    const reason = `apiVersion is ${apiVersion}, which is not read; write it as ${written}`;
    complain(["apiVersion"], reason);
    if (kind === "Gang" || kind === "LLMCluster") into.refused.set(key, invalidGang(named, reason));
    return;
  }
  const result = checked(named);
  if ("object" in result) {
    entriesOf(into.store, kind).set(key, { object: result.object, source, planned });
    for (const { path, reason } of result.notes) {
      into.notes.push(`${source.file}:${source.line(path)}: ${title}: ${fieldName(path)} ${reason}`);
    }
    return;
  }
  const reasons = result.violations.map(({ path, reason }) => ({ path, text: withField(path, reason) }));
  for (const { path, text } of reasons) complain(path, text);
  if (kind === "Gang" || kind === "LLMCluster") {
    into.refused.set(key, invalidGang(named, reasons.map(({ text }) => text).join("; ")));
  }
}

/** The version to write instead; undefined: it is read as it is. */
function readVersion({ kind, apiVersion }: KindedObject): string | undefined {
  if (groups[kind] === "resource.k8s.io") {
    const isRead = draVersions.has(apiVersion) || (kind === "DeviceTaintRule" && apiVersion === ruleVersion);
    return isRead ? undefined : "resource.k8s.io/v1";
  }
  if (!isCustom({ kind, apiVersion })) return undefined;
  const [group] = apiVersion.split("/");
  return apiVersion === `${group}/${version}` ? undefined : `${group}/${version}`;
}

function withField(path: readonly (string | number)[], reason: string): string {
  return path.length === 0 ? reason : `${fieldName(path)}: ${reason}`;
}

function invalidGang({ metadata }: KindedObject, message: string): Rejection {
  const { name, namespace = "" } = metadata;
  return rejectionOf({ namespace, name }, { reason: "InvalidGang", message });
}

function withNamespace(object: KindedObject): KindedObject {
  const { metadata } = object;
  if (clusterWide.has(object.kind)) return object;
  const namespace = metadata.namespace || "default";
  return { ...object, metadata: { ...metadata, namespace } };
}

function keyOf({ kind, metadata }: KindedObject): string {
  return clusterWide.has(kind) ? metadata.name : `${metadata.namespace}/${metadata.name}`;
}

function entriesOf(store: Store, kind: string): Map<string, Entry> {
  const known = store.get(kind) ?? new Map<string, Entry>();
  store.set(kind, known);
  return known;
}

function objectsOf<T extends KindedObject>(store: Store, kind: string): T[] {
  return [...entriesOf(store, kind).values()].map(({ object }) => object as T);
}

/** Adds what is not there yet: what exists already was made by the real controllers. */
function addNew(store: Store, object: KindedObject, origin: Entry): void {
  const entries = entriesOf(store, object.kind);
  const key = keyOf(object);
  if (!entries.has(key)) entries.set(key, { ...origin, object });
}

/** A cluster in which kllama is installed has its device classes. */
function addDeviceClasses(
  store: Store,
  origins: readonly Origin[],
  deviceClasses: readonly KindedObject[],
  notes: string[],
): void {
  if (!origins.every(({ planned }) => planned)) return;
  const known = entriesOf(store, "DeviceClass");
  const added = deviceClasses.filter(({ metadata }) => !known.has(metadata.name));
  for (const object of added) known.set(object.metadata.name, { object, planned: true });
  if (added.length > 0) {
    notes.push(
      `DeviceClasses of kllama itself that the input does not have: ${added.map((c) => c.metadata.name).join(", ")}`,
    );
  }
}

function runControllers(store: Store, notes: string[]): void {
  for (const entry of [...entriesOf(store, "LLMCluster").values()]) {
    if (!entry.planned) continue;
    for (const object of ofCluster(entry.object)) addNew(store, object, entry);
  }
  for (const kind of ["StatefulSet", "Deployment"]) {
    for (const entry of entriesOf(store, kind).values()) {
      if (!entry.planned) continue;
      const pods = objectsOf<Pod & KindedObject>(store, "Pod");
      for (const pod of podsOf(entry.object, pods)) addNew(store, pod as Pod & KindedObject, entry);
      if (isOneByOne(entry.object)) {
        notes.push(
          `StatefulSet ${keyOf(entry.object)}: its gang becomes complete only with podManagementPolicy: Parallel; it is planned as if it had that`,
        );
      }
    }
  }
}

function* adaptPodGroups(store: Store, into: Pick<Told, "notes" | "problems" | "refused">) {
  const topology = entriesOf(store, "ClusterTopology").get("default")?.object;
  const { levels } = topology === undefined ? builtInTopology : projectTopology(topology as never).spec;
  for (const entry of entriesOf(store, "PodGroup").values()) {
    const pods = objectsOf<Pod & KindedObject>(store, "Pod");
    const faults = podGroupFaults(entry.object);
    if (faults.length > 0) {
      // Its pods wait for it to be corrected.
      replacePods(store, podsOfGroup(entry.object, pods));
      refusePodGroup(entry, faults, into);
      continue;
    }
    const adapted = adaptPodGroup(entry.object, pods, levels);
    const key = keyOf(entry.object);
    if (adapted === undefined) continue;
    const complain = (reason: string): void => {
      const { file, line } = entry.source!;
      into.problems.push({ file, line: line(), reason: `PodGroup ${key}: ${reason}` });
    };
    if (entriesOf(store, "Gang").has(key)) {
      complain("a Gang of its name exists; rename one of them");
      continue;
    }
    replacePods(store, adapted.pods);
    const gang = checked(adapted.gang as KindedObject);
    if ("violations" in gang) {
      refusePodGroup(entry, gang.violations, into);
      continue;
    }
    for (const what of adapted.lost)
      into.notes.push(`PodGroup ${key}: ${what}, has no meaning to kllama and is left out`);
    addNew(store, adapted.gang, entry);
    yield* adapted.topologies;
  }
}

function replacePods(store: Store, pods: readonly Pod[]): void {
  const entries = entriesOf(store, "Pod");
  for (const pod of pods) entries.get(keyOf(pod as Pod & KindedObject))!.object = pod as Pod & KindedObject;
}

function refusePodGroup(
  { object, source }: Entry,
  faults: readonly Violation[],
  { problems, refused }: Pick<Told, "problems" | "refused">,
): void {
  const texts = faults.map(({ path, reason }) => withField(path, reason));
  for (const [i, { path }] of faults.entries()) {
    problems.push({
      file: source?.file ?? "",
      line: source?.line(path) ?? 0,
      reason: `PodGroup ${keyOf(object)}: ${texts[i]}`,
    });
  }
  refused.set(keyOf(object), invalidGang(object, texts.join("; ")));
}

/** `namespace/name` of every ResourceClaimTemplate that was given, be it of use or not. */
function templatesOf(origins: readonly Origin[]): string[] {
  return origins.flatMap(({ objects }) =>
    objects.flatMap(({ object }) => (object.kind === "ResourceClaimTemplate" ? keyOf(withNamespace(object)) : [])),
  );
}

/** Devices that are one claim's alone, and that several claims say they hold. */
function heldTwice(store: Store): string[] {
  const holders = new Map<string, string>();
  return [...entriesOf(store, "ResourceClaim")].flatMap(([key, { object, source }]) => {
    const { status } = object as ResourceClaim & KindedObject;
    return (status?.allocation?.devices?.results ?? []).flatMap(({ driver, pool, device, shareID, adminAccess }, i) => {
      if (shareID !== undefined || adminAccess === true) return [];
      const name = deviceKey(driver, pool, device);
      const holder = holders.get(name) ?? key;
      holders.set(name, holder);
      if (holder === key) return [];
      const line = source?.line(["status", "allocation", "devices", "results", i]);
      return `${source?.file}:${line}: ResourceClaim ${key} holds device ${name}, and so does ResourceClaim ${holder}; one of them is wrong`;
    });
  });
}

function makeClaims(store: Store, notes: string[], given: ReadonlySet<string>): Set<string> {
  const templates = entriesOf(store, "ResourceClaimTemplate");
  const claims = Map.groupBy(
    objectsOf<ResourceClaim & KindedObject>(store, "ResourceClaim"),
    (c) => c.metadata.namespace,
  );
  const uids = new Set<string>();
  for (const entry of entriesOf(store, "Pod").values()) {
    const pod = entry.object as Pod & KindedObject;
    const { namespace } = pod.metadata;
    const find = (name: string) =>
      templates.get(`${namespace}/${name}`)?.object as (ResourceClaimTemplate & KindedObject) | undefined;
    const { made, missing, pod: claimed } = claimsFor(withUid(pod) as Pod, claims.get(namespace) ?? [], find);
    entry.object = claimed as Pod & KindedObject;
    for (const claim of made) {
      uids.add(claim.metadata.uid!);
      addNew(store, claim as ResourceClaim & KindedObject, entry);
    }
    for (const { index, template } of entry.planned ? missing : []) {
      const place =
        entry.source === undefined
          ? ""
          : `${entry.source.file}:${entry.source.line(["spec", "resourceClaims", index])}: `;
      const found = `ResourceClaimTemplate ${namespace}/${template}`;
      const why = given.has(`${namespace}/${template}`) ? `${found} cannot be used` : `there is no ${found}`;
      notes.push(`${place}Pod ${keyOf(pod)} waits for its claim: ${why}`);
    }
  }
  return uids;
}

/** The API server gives one; in files it may be missing. */
function withUid<T extends KindedObject>(object: T): T {
  const uid = object.metadata.uid ?? `${object.kind} ${keyOf(object)}`;
  return { ...object, metadata: { ...object.metadata, uid } };
}

function project(
  store: Store,
  adapted: readonly { name: string; spec: ClusterState["topologies"][number]["spec"] }[],
  problems: DocumentProblem[],
): ClusterState {
  const all = <R, T>(kind: string, read: (raw: R, planned: boolean) => T): T[] =>
    [...entriesOf(store, kind).values()].flatMap(({ object, source, planned }) => {
      try {
        return [read(withUid(object) as unknown as R, planned)];
      } catch (error) {
        const reason = `${kind} ${keyOf(object)}: ${error instanceof Error ? error.message : String(error)}`;
        problems.push({ file: source?.file ?? "", line: source?.line() ?? 0, reason });
        return [];
      }
    });
  const priorityOf = priorities(store);
  const pods = objectsOf<Pod & KindedObject>(store, "Pod");
  return {
    gangs: all("Gang", (raw: Parameters<typeof projectGang>[0]) => projectGang(raw)).map(youngest),
    groups: all("PlacementGroup", projectPlacementGroup),
    pods: all("Pod", (raw: Pod, planned) =>
      youngest(asAdmitted(projectPod(priorityOf(planned ? readyPod(raw) : raw)))),
    ),
    budgets: all("PodDisruptionBudget", (raw: PodDisruptionBudget, planned) =>
      planned ? countedBudget(raw, pods) : projectBudget(raw),
    ),
    claims: all("ResourceClaim", projectClaim),
    nodes: all("Node", (raw: Node) => projectNode(readyNode(raw))),
    slices: all("ResourceSlice", projectSlice),
    taintRules: all("DeviceTaintRule", projectTaintRule),
    deviceClasses: all("DeviceClass", projectDeviceClass),
    topologies: [...all("ClusterTopology", projectTopology), ...adapted],
  };
}

const systemPriorities: Readonly<Record<string, number>> = {
  "system-node-critical": 2_000_001_000,
  "system-cluster-critical": 2_000_000_000,
};

interface PriorityClass extends KindedObject {
  value: number;
  globalDefault?: boolean;
  preemptionPolicy?: string;
}

/** As the API server's admission sets `spec.priority` and `spec.preemptionPolicy`. */
function priorities(store: Store): (pod: Pod) => Pod {
  const classes = objectsOf<PriorityClass>(store, "PriorityClass");
  const fallback = classes.find(({ globalDefault }) => globalDefault === true);
  return (pod) => {
    const { priority, priorityClassName: name } = pod.spec;
    if (priority !== undefined) return pod;
    const found = classes.find(({ metadata }) => metadata.name === name) ?? (name === undefined ? fallback : undefined);
    const value = found?.value ?? systemPriorities[name ?? ""] ?? fallback?.value ?? 0;
    const preemptionPolicy = pod.spec.preemptionPolicy ?? found?.preemptionPolicy;
    return { ...pod, spec: { ...pod.spec, ...defined({ preemptionPolicy }), priority: value } };
  };
}
