import type { KubernetesObject, ResourceClaim } from "../../src/api/kubernetes.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import { claimPath } from "../../src/kube/paths.ts";

/**
 * Who may allocate a claim and take its finalizer off, in each state that policies and PlannerTerm can be in. Every entry is
 * a dry run of a real account: `yes`, or who refuses it, told by the message.
 */
type Answer = "yes" | "account" | "term" | "finalizer" | "RBAC";
export type Writer = "leader" | "predecessor" | "deposed" | "account" | "editor" | "scheduler";
type Write = "allocate" | "strip";
export type Table = Record<Writer, Record<Write, string>>;

/** Of each kind of claim, in the order of the table's columns, the drivers of its devices. */
const kinds = {
  managed: [{ driver: "gpu.kllama.ai" }],
  otherDriver: [{ driver: "gpu.nvidia.com" }],
  administrator: [{ driver: "gpu.kllama.ai", adminAccess: true }],
  mixed: [{ driver: "gpu.nvidia.com" }, { driver: "gpu.kllama.ai" }],
};
type Kind = keyof typeof kinds;
const columns = Object.keys(kinds) as Kind[];

/** Columns: a managed driver's, another driver's, an administrator's (`adminAccess`), and a claim on both drivers. */
const installed: Table = {
  leader: { allocate: "yes yes yes yes", strip: "yes yes yes yes" },
  // In the leader's pod, before it was started again there.
  predecessor: { allocate: "term term term term", strip: "term term term term" },
  deposed: { allocate: "term term term term", strip: "term term term term" },
  // Of somebody else, with all rights that RBAC has.
  account: { allocate: "account yes yes account", strip: "finalizer yes yes finalizer" },
  editor: { allocate: "RBAC RBAC RBAC RBAC", strip: "finalizer yes yes finalizer" },
  scheduler: { allocate: "account yes yes account", strip: "yes yes yes yes" },
};
const all = "yes yes yes yes";
const unfenced: Partial<Table> = {
  predecessor: { allocate: all, strip: all },
  deposed: { allocate: all, strip: all },
};
const heldByNobody: Partial<Table> = { leader: installed.deposed };

export const tables = {
  installed,
  "without policies": {
    ...installed,
    ...unfenced,
    account: { allocate: all, strip: all },
    editor: { ...installed.editor, strip: all },
    scheduler: { allocate: all, strip: all },
  },
  "without the binding of policy account": {
    ...installed,
    account: { ...installed.account, allocate: all },
    scheduler: { ...installed.scheduler, allocate: all },
  },
  "without PlannerTerm": { ...installed, ...unfenced },
  "under another holder's PlannerTerm": { ...installed, ...heldByNobody },
} satisfies Record<string, Table>;

const namespace = "policies";
const adminNamespace = "policies-admin";
const namespaceOf = (kind: Kind): string => (kind === "administrator" ? adminNamespace : namespace);
const nameOf = (kind: Kind): string => kind.toLowerCase();

/** One claim of each kind that is not allocated, and one that is. `planner` may allocate all. */
export async function createPolicySubjects(admin: KubeClient, planner: KubeClient): Promise<void> {
  const labels = { "resource.kubernetes.io/admin-access": "true" };
  for (const metadata of [{ name: namespace }, { name: adminNamespace, labels }]) {
    await admin.request("POST", "/api/v1/namespaces", { body: { apiVersion: "v1", kind: "Namespace", metadata } });
  }
  for (const kind of columns) {
    const adminAccess = kind === "administrator" ? { adminAccess: true } : {};
    const exactly = { deviceClassName: "gpu.kllama.ai", allocationMode: "All", ...adminAccess };
    for (const name of [nameOf(kind), `${nameOf(kind)}-allocated`]) {
      const spec = { devices: { requests: [{ name: "gpus", exactly }] } };
      const body = { apiVersion: "resource.k8s.io/v1", kind: "ResourceClaim", metadata: { name }, spec };
      await admin.request("POST", claimPath({ namespace: namespaceOf(kind) }), { body });
    }
    await allocate(planner, kind, `${nameOf(kind)}-allocated`, {});
  }
}

/** What each writer is answered now. Throws when a refusal is none that the table knows. */
export async function readTable(writers: Record<Writer, KubeClient>): Promise<Table> {
  const rows = Object.entries(writers).map(async ([writer, client]) => {
    const row = async (write: (kind: Kind) => Promise<unknown>): Promise<string> =>
      (await Promise.all(columns.map((kind) => answerOf(write(kind))))).join(" ");
    const [allocated, stripped] = await Promise.all([
      row((kind) => allocate(client, kind, nameOf(kind))),
      row((kind) => strip(client, kind)),
    ]);
    return [writer, { allocate: allocated, strip: stripped }];
  });
  return Object.fromEntries(await Promise.all(rows)) as Table;
}

const dryRun = { dryRun: "All" };

function allocate(client: KubeClient, kind: Kind, name: string, query: object = dryRun): Promise<ResourceClaim> {
  const results = kinds[kind].map((result) => ({ request: "gpus", pool: "node-0", device: "gpu-0", ...result }));
  const allocation = { devices: { results }, allocationTimestamp: "2026-01-01T00:00:00Z" };
  return client.request("PATCH", claimPath({ namespace: namespaceOf(kind), name }, "status"), {
    query: { ...query },
    body: { status: { allocation } },
  });
}

function strip(client: KubeClient, kind: Kind): Promise<KubernetesObject> {
  const name = `${nameOf(kind)}-allocated`;
  const body = { metadata: { finalizers: null } };
  return client.request("PATCH", claimPath({ namespace: namespaceOf(kind), name }), { query: dryRun, body });
}

/** What each refusal has to say to whom it concerns: who, what, and what helps. */
const refusals: [Answer, RegExp][] = [
  ["account", /devices of gpu\.kllama\.ai are allocated by kllama's planner alone .* not by \S+; the pod binds once/],
  ["term", /this planner was replaced: term \d+ is held by \S+, not by [0-9a-f-]{36}/],
  ["term", /this planner was replaced: it is in term \d+, and this was sent by field manager 'kllama-planner\/\d+'/],
  [
    "finalizer",
    /finalizer \S+ of ResourceClaim \S+ stays while the claim holds devices of gpu\.kllama\.ai: delete the pod/,
  ],
  ["RBAC", /User "\S+" cannot patch resource "resourceclaims\/status"/],
];

async function answerOf(attempt: Promise<unknown>): Promise<Answer> {
  return attempt.then(
    () => "yes",
    (error: Error) => {
      const known = refusals.find(([, text]) => text.test(error.message));
      if (known === undefined) throw error;
      return known[0];
    },
  );
}
