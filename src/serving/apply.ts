import type { KubernetesObject, Pod } from "../api/kubernetes.ts";
import { fieldManager } from "../api/names.ts";
import { isConflict, isNotFound, type KubeClient, KubeError } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import { covers } from "./covers.ts";
import { desiredHashAnnotation, type OwnedKind, type OwnedObject, ownedKinds } from "./owned.ts";
import type { Problem } from "./status.ts";
import { isOlder } from "./versions.ts";

/** Marks the operator's fields apart from the planner's. */
const operatorFieldManager = `${fieldManager}-operator`;

/** Which part of an LLMCluster's spec an object is made from: where to look when the API server refuses it. */
const specPartOf: Record<OwnedKind, string> = {
  Service: "spec.port",
  ResourceClaimTemplate: "spec.devices and spec.gpusPerPod",
  Gang: "spec.placement",
  PodDisruptionBudget: "spec.podDisruptionBudget",
  StatefulSet: "spec",
};

/** The write cannot succeed until somebody acts; other failures are KubeErrors, worth another try. */
export class ApplyError extends Error {
  readonly problem: Problem;

  constructor(problem: Problem, cause?: unknown) {
    super(problem.message, cause === undefined ? undefined : { cause });
    this.name = "ApplyError";
    this.problem = problem;
  }
}

export interface Applier {
  /**
   * Makes the API server hold `desired` by server-side apply, and says whether `live` carried it already: then nothing
   * is sent. `live` is what a watch has shown last, undefined if nothing. Throws ApplyError when the object is somebody
   * else's or is refused for good, KubeError otherwise.
   */
  apply(desired: OwnedObject, live: KubernetesObject | undefined): Promise<boolean>;
}

/** What was last sent for one object, and what it became. */
interface Sent {
  hash: string | undefined;
  after: KubernetesObject;
}

export function createApplier(client: KubeClient): Applier {
  const sent = new Map<string, Sent>();

  async function apply(desired: OwnedObject, known: KubernetesObject | undefined): Promise<boolean> {
    const path = pathOf(desired);
    // A watch sees only objects with our label; a stranger's object of this name must not be taken over.
    const live = known ?? (await getOrUndefined(client, path));
    if (live !== undefined) {
      refuseForeign(desired, live);
      if (live.metadata.deletionTimestamp !== undefined) return false;
      if (covers(live, desired)) return true;
      const last = sent.get(path);
      if (last !== undefined && last.hash === hashOf(desired)) {
        if (isUnchangedSince(last.after, live, desired)) return true;
        // The watch has not shown our last write yet.
        if (isOlder(live.metadata.resourceVersion, last.after.metadata.resourceVersion)) return false;
      }
    }
    const after = await write(client, path, desired, live);
    sent.set(path, { hash: hashOf(desired), after });
    return false;
  }

  return { apply };
}

async function write(
  client: KubeClient,
  path: string,
  desired: OwnedObject,
  live: KubernetesObject | undefined,
): Promise<KubernetesObject> {
  const uid = live?.metadata.uid;
  const body = uid === undefined ? desired : { ...desired, metadata: { ...desired.metadata, uid } };
  try {
    return await serverSideApply(client, path, body);
  } catch (error) {
    // Server-side apply tells ports apart by number: where somebody has renumbered ours, it would add a second one of the
    // same name, which is refused. Replacing the list heals it.
    if (live !== undefined && desired.kind === "Service" && error instanceof KubeError && error.status === 422) {
      return await replaceFields(client, path, body);
    }
    throw refusal(desired, error);
  }
}

async function replaceFields(client: KubeClient, path: string, body: OwnedObject): Promise<KubernetesObject> {
  try {
    return await client.request<KubernetesObject>("PATCH", path, {
      query: { fieldManager: operatorFieldManager },
      body,
    });
  } catch (error) {
    throw refusal(body, error);
  }
}

/** Server-side apply that takes over fields others have set: the LLMCluster is the only place to change them. */
export function serverSideApply<T extends KubernetesObject>(client: KubeClient, path: string, body: T): Promise<T> {
  return client.request<T>("PATCH", path, {
    query: { fieldManager: operatorFieldManager, force: true },
    contentType: "application/apply-patch+yaml",
    body,
  });
}

/** Deletes exactly this object: not one of the same name that came after it. Gone already is fine. */
export async function deleteOwned(client: KubeClient, object: KubernetesObject & { kind: OwnedKind }): Promise<void> {
  await deleteExactly(client, pathOf(object), object);
}

/** Deletes all these pods at once. */
export async function deletePods(client: KubeClient, pods: readonly Pod[]): Promise<void> {
  await Promise.all(
    pods.map((pod) => {
      const { namespace, name } = pod.metadata;
      return deleteExactly(client, resourcePath({ group: "", version: "v1", resource: "pods", namespace, name }), pod);
    }),
  );
}

async function deleteExactly(client: KubeClient, path: string, { metadata }: KubernetesObject): Promise<void> {
  const body = { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid: metadata.uid } };
  try {
    await client.request("DELETE", path, { query: { propagationPolicy: "Background" }, body });
  } catch (error) {
    if (!isNotFound(error) && !isConflict(error)) throw error;
  }
}

/**
 * The API server may write a value in another form than we do (`1000m` as `1`) or keep another manager's entry in one of
 * our lists: then the live object never looks like the desired one, and sending the same again changes nothing. Its
 * spec is what our last write made of it for as long as its generation stays (status does not count in it).
 */
function isUnchangedSince(after: KubernetesObject, live: KubernetesObject, desired: OwnedObject): boolean {
  const { generation, resourceVersion } = live.metadata;
  if (after.metadata.uid !== live.metadata.uid) return false;
  if (generation === undefined) return resourceVersion === after.metadata.resourceVersion;
  return generation === after.metadata.generation && covers(live.metadata, desired.metadata);
}

function refuseForeign(desired: OwnedObject, live: KubernetesObject): void {
  const owner = desired.metadata.ownerReferences?.[0];
  if (live.metadata.ownerReferences?.some(({ controller, uid }) => controller === true && uid === owner?.uid)) return;
  const { namespace, name } = desired.metadata;
  throw new ApplyError({
    reason: "NameConflict",
    message: `${desired.kind} ${namespace}/${name} exists and does not belong to LLMCluster ${owner?.name}; delete it or create the LLMCluster under another name`,
  });
}

/** 400 and 422: what we made of the spec is refused. Other 4xx: refused for a reason outside the spec. The rest passes. */
function refusal(desired: OwnedObject, error: unknown): unknown {
  if (!(error instanceof KubeError)) return error;
  // People read this in a status; which request it was is for logs.
  const said = error.message.replace(`PATCH ${pathOf(desired)}: `, "");
  const what = `${desired.kind} ${desired.metadata.name}: ${said}`;
  if (error.status === 400 || error.status === 422) {
    const message = `${what}; change ${specPartOf[desired.kind as OwnedKind]} of the LLMCluster`;
    return new ApplyError({ reason: "InvalidSpec", message }, error);
  }
  if (error.status === 403 || error.status === 404) {
    return new ApplyError({ reason: "ApplyFailed", message: what }, error);
  }
  return error;
}

async function getOrUndefined(client: KubeClient, path: string): Promise<KubernetesObject | undefined> {
  try {
    return await client.request<KubernetesObject>("GET", path);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

function hashOf(object: OwnedObject): string | undefined {
  return object.metadata.annotations?.[desiredHashAnnotation];
}

function pathOf(object: KubernetesObject): string {
  const { namespace, name } = object.metadata;
  return resourcePath({ ...ownedKinds[object.kind as OwnedKind], namespace, name });
}
