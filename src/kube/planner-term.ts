import { plannerName, schedulingGroup, version } from "../api/names.ts";
import type { PlannerTermSpec } from "../api/planner-term.ts";
import { isAlreadyExists, isConflict, isNotFound, type KubeClient, KubeError } from "./client.ts";
import { inTerm } from "./field-manager.ts";
import { resourcePath } from "./paths.ts";

const kind = { apiVersion: `${schedulingGroup}/${version}`, kind: "PlannerTerm" };
const location = { group: schedulingGroup, version, resource: "plannerterms" };
const path = resourcePath({ ...location, name: plannerName });
const policy = "term.scheduling.kllama.ai";

interface PlannerTerm {
  metadata: { name: string; resourceVersion?: string };
  spec: PlannerTermSpec;
}

/** How the API server knows the sender of our requests, as the fence compares it. */
export interface Holder {
  /** UID of our pod, else the identifier of our credential, else our user name; `PlannerTerm.spec.holder`. */
  id: string;
  /** Name and UID of our pod, which no other running process has; undefined without a pod: credentials may be shared. */
  pod: string | undefined;
}

/** Asks the API server who we are (SelfSubjectReview, which everybody may create). */
export async function readHolder(client: KubeClient): Promise<Holder> {
  const review = await client.request<{
    status: { userInfo: { username?: string; extra?: Record<string, string[] | undefined> } };
  }>("POST", resourcePath({ group: "authentication.k8s.io", version: "v1", resource: "selfsubjectreviews" }), {
    body: { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" },
  });
  const { username = "", extra = {} } = review.status.userInfo;
  const first = (key: string): string => extra[`authentication.kubernetes.io/${key}`]?.[0] ?? "";
  const podUid = first("pod-uid");
  if (podUid !== "") return { id: podUid, pod: `${first("pod-name")}_${podUid}` };
  return { id: first("credential-id") || username, pod: undefined };
}

/**
 * Begins a new term: from the moment the API server has noticed, nobody else's writes pass, nor those of an earlier term.
 * @param first its epoch where there is no term to succeed: a number that no term had before. Where somebody deleted the
 *   term of our own pod's last process, that one's writes may be under way still, and must not be of a term that is counted anew.
 * @returns its epoch, and who held the term before (undefined: nobody)
 * Throws KubeError when the kind is not installed or the write is refused.
 */
export async function beginTerm(
  client: KubeClient,
  holder: string,
  first: number,
): Promise<{ epoch: number; before?: string }> {
  for (;;) {
    const known = await readTerm(client);
    const epoch = known === undefined ? first : known.spec.epoch + 1;
    const body = { ...kind, metadata: { name: plannerName, ...known?.metadata }, spec: { holder, epoch } };
    try {
      if (known === undefined) await client.request("POST", resourcePath(location), { body });
      else await client.request("PUT", path, { body });
      return known === undefined ? { epoch } : { epoch, before: known.spec.holder };
    } catch (error) {
      // Somebody else began a term at the same time: the Lease says that it is our turn, so ours goes on top.
      if (!isConflict(error) && !isAlreadyExists(error) && !isNotFound(error)) throw error;
    }
  }
}

/**
 * Why the fence does not stand. `missing`: somebody has deleted the term, or nobody has begun one; `taken`: the term is not
 * ours any more, for ever; `open`: the policy does not follow it (yet).
 */
export interface TermFault {
  kind: "missing" | "taken" | "open";
  message: string;
}

/**
 * Writes a term that somebody deleted anew, as it was; leaves alone one that is there again. For who leads: without a
 * term the API server lets every planner write. Throws KubeError when the write is refused.
 */
export async function reviveTerm(client: KubeClient, spec: PlannerTermSpec): Promise<void> {
  const body = { ...kind, metadata: { name: plannerName }, spec };
  await client.request("POST", resourcePath(location), { body }).catch((error: unknown) => {
    if (!isAlreadyExists(error)) throw error;
  });
}

async function readTerm(client: KubeClient): Promise<PlannerTerm | undefined> {
  try {
    return await client.request<PlannerTerm>("GET", path);
  } catch (error) {
    if (!isNotFound(error)) throw error;
    if ((error as KubeError).reason !== "NotFound") throw notInstalled(error);
    return undefined;
  }
}

/** A path that no kind serves is answered with 404 and no Status. */
function notInstalled(cause: unknown): Error {
  return new Error("kind PlannerTerm is not installed: run kubectl apply --server-side -f crds -f deploy", { cause });
}

/**
 * Asks by two dry runs whether the fence stands for our term: a write of it passes, one in another's name does not.
 * @returns what is wrong, undefined when it stands
 */
export async function probeTerm(
  client: KubeClient,
  { holder, epoch }: PlannerTermSpec,
): Promise<TermFault | undefined> {
  const term = await readTerm(client);
  if (term === undefined) return { kind: "missing", message: `there is no PlannerTerm ${plannerName}` };
  const { spec } = term;
  if (spec.holder !== holder) return { kind: "taken", message: `term ${spec.epoch} is held by ${spec.holder}` };
  if (spec.epoch !== epoch) {
    return { kind: "taken", message: `term ${spec.epoch} of ${holder} is another process's` };
  }
  const writer = inTerm(client, () => epoch);
  const [own, other] = await Promise.all([
    dryRun(writer, term, holder),
    dryRun(writer, term, `not ${holder}`.slice(0, 512)),
  ]);
  if (own !== undefined) return { kind: "open", message: `policy ${policy} does not know this term yet: ${own}` };
  if (other !== undefined) return undefined;
  return { kind: "open", message: `policy ${policy} lets everybody write: apply deploy/policies.yaml` };
}

/** @returns why the policy refuses a write in that holder's name, undefined when it does not */
async function dryRun(client: KubeClient, term: PlannerTerm, probe: string): Promise<string | undefined> {
  try {
    const { resourceVersion } = term.metadata;
    const metadata = { name: plannerName, resourceVersion };
    const body = { ...kind, metadata, spec: term.spec, status: { probe } };
    await client.request("PUT", `${path}/status`, { query: { dryRun: "All" }, body });
    return undefined;
  } catch (error) {
    if (error instanceof KubeError && error.message.includes(policy)) return error.message;
    throw error;
  }
}
