import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Gang } from "../../src/api/gang.ts";
import type { KubernetesObject, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { bindMarker, claimFinalizer, driverName, gangGate, gangLabel, plannerName } from "../../src/api/names.ts";
import { type KubeClient, KubeError } from "../../src/kube/client.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { inTerm } from "../../src/kube/field-manager.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { projectClaim } from "../../src/kube/project.ts";

/** An API server that is held against the contract: a real one, or the double. */
export interface ContractSubject {
  /** Somebody with all rights who is not the planner. */
  admin: KubeClient;
  /** The planner's account. */
  planner: KubeClient;
  /** As whom the policy `term` knows it. */
  holder: string;
  /** Where objects are made; pods need nothing more than the namespace to be created in it. */
  namespace: string;
  /** No watch may begin at a version from before this call any more. */
  compact(): Promise<void>;
  close(): Promise<void>;
}

interface Json extends KubernetesObject {
  spec?: unknown;
  status?: unknown;
}

const strategic = "application/strategic-merge-patch+json";
const consumer = (uid: string) => ({ resource: "pods", name: `pod-${uid}`, uid });
const guard = { apiGroup: "scheduling.kllama.ai", resource: "gangs", name: "g", uid: "guard" };
const result = (device: string) => ({ request: "gpus", driver: driverName, pool: "n1", device });
const allocation = (device = "gpu-0", allocationTimestamp = "2026-01-01T00:00:00Z") => ({
  devices: { results: [result(device)] },
  nodeSelector: {
    nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: ["n1"] }] }],
  },
  allocationTimestamp,
});

/**
 * What kllama relies on of kube-apiserver (and of deploy/policies.yaml in it). The same tests run against the real one
 * and against the double that the simulation runs on, so that the double is honest.
 */
export function describeApiContract(title: string, open: () => Promise<ContractSubject>): void {
  describe(title, () => {
    let subject: ContractSubject;
    let names = 0;
    beforeAll(async () => {
      subject = await open();
    });
    afterAll(async () => {
      await subject?.close();
    });

    const fresh = (): string => {
      names += 1;
      return `c${names}`;
    };
    const path = (group: string, version: string, resource: string) => (name?: string, subresource?: string) =>
      resourcePath({ group, version, resource, namespace: subject.namespace, name, subresource });
    const pods = path("", "v1", "pods");
    const claims = path("resource.k8s.io", "v1", "resourceclaims");
    const gangs = path("scheduling.kllama.ai", "v1alpha1", "gangs");
    const leases = path("coordination.k8s.io", "v1", "leases");

    type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
    const ask = <T extends Json>(
      method: Method,
      at: string,
      body?: unknown,
      contentType?: string,
      as = subject.planner,
    ) => as.request<T>(method, at, { body, ...(contentType === undefined ? {} : { contentType }) });

    async function refusal(request: Promise<unknown>): Promise<string> {
      try {
        await request;
        return "accepted";
      } catch (error) {
        if (!(error instanceof KubeError)) throw error;
        return `${error.status} ${error.reason}`;
      }
    }

    async function createGang(): Promise<Gang & Json> {
      const metadata = { name: fresh(), namespace: subject.namespace };
      const spec = {
        podSets: [{ name: "ranks", count: 2 }],
        topology: "default",
        scheduleTimeoutSeconds: 600,
        disruption: "All",
      };
      const body = { apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "Gang", metadata, spec };
      return await ask<Gang & Json>("POST", gangs(), body, undefined, subject.admin);
    }

    async function createClaim(finalizers: string[] = []): Promise<ResourceClaim> {
      const body = {
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        metadata: { name: fresh(), namespace: subject.namespace, finalizers },
        spec: {
          devices: {
            requests: [
              { name: "gpus", exactly: { deviceClassName: driverName, allocationMode: "ExactCount", count: 1 } },
            ],
          },
        },
      };
      return await ask<ResourceClaim>("POST", claims(), body, undefined, subject.admin);
    }

    async function createPod(labels: Record<string, string> = {}): Promise<Pod> {
      const body = {
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: fresh(), namespace: subject.namespace, labels },
        spec: { containers: [{ name: "main", image: "none" }] },
      };
      return await ask<Pod>("POST", pods(), body, undefined, subject.admin);
    }

    const patchClaim = (claim: ResourceClaim, status: unknown, metadata: object = {}, as = subject.planner) =>
      ask<ResourceClaim>(
        "PATCH",
        claims(claim.metadata.name, "status"),
        { metadata: { uid: claim.metadata.uid, resourceVersion: claim.metadata.resourceVersion, ...metadata }, status },
        undefined,
        as,
      );
    const allocated = async (consumers: object[] = [guard, consumer("a")]): Promise<ResourceClaim> =>
      await patchClaim(await createClaim(), { allocation: allocation(), reservedFor: consumers });

    const gangStatus = (gang: Json, status: unknown, metadata: object = {}) =>
      ask<Gang & Json>("PUT", gangs(gang.metadata.name, "status"), {
        ...gang,
        metadata: { ...gang.metadata, ...metadata },
        status,
      });

    const bind = (pod: Pod, node: string, uid = pod.metadata.uid) =>
      ask("POST", pods(pod.metadata.name, "binding"), {
        apiVersion: "v1",
        kind: "Binding",
        metadata: { name: pod.metadata.name, namespace: subject.namespace, uid },
        target: { apiVersion: "v1", kind: "Node", name: node },
      });

    describe("objects", () => {
      test("what is not there is not found; what is there cannot be created", async () => {
        expect(await refusal(ask("GET", gangs("missing")))).toBe("404 NotFound");
        const gang = await createGang();
        expect(await refusal(ask("POST", gangs(), gang, undefined, subject.admin))).not.toBe("accepted");
        const { uid: _u, resourceVersion: _v, ...metadata } = gang.metadata;
        expect(await refusal(ask("POST", gangs(), { ...gang, metadata }, undefined, subject.admin))).toBe(
          "409 AlreadyExists",
        );
      });

      test("a list comes in pages of one version", async () => {
        await createGang();
        await createGang();
        interface Page {
          metadata: { resourceVersion: string; continue?: string };
          items: Json[];
        }
        const first = await subject.planner.request<Page>("GET", gangs(), { query: { limit: 1 } });
        await createGang();
        const query = { limit: 500, continue: first.metadata.continue };
        const rest = await subject.planner.request<Page>("GET", gangs(), { query });
        expect(first.items).toHaveLength(1);
        expect(rest.items.length).toBeGreaterThan(0);
        expect(rest.metadata.continue ?? "").toBe("");
      });
    });

    describe("a custom resource's status", () => {
      test("is replaced whole by an update that names the present version, and leaves the spec", async () => {
        const gang = await createGang();
        const written = await gangStatus(
          { ...gang, spec: { podSets: [{ name: "other", count: 1 }] } },
          { phase: "Reserved", members: "0/2" },
        );
        expect(written.spec).toEqual(gang.spec);
        expect(written.status).toEqual({ phase: "Reserved", members: "0/2" });
        expect(written.metadata.generation).toBe(1);
        expect(Number(written.metadata.resourceVersion)).toBeGreaterThan(Number(gang.metadata.resourceVersion));
        const again = await gangStatus(written, { phase: "Binding" });
        expect(again.status).toEqual({ phase: "Binding" });
      });

      test("is a compare-and-swap: of two writers upon one version one wins", async () => {
        const gang = await createGang();
        await gangStatus(gang, { phase: "Binding" });
        expect(await refusal(gangStatus(gang, { phase: "Revoked" }))).toBe("409 Conflict");
      });

      test("is refused for another object of that name, and without a version", async () => {
        const gang = await createGang();
        expect(await refusal(gangStatus(gang, {}, { uid: "another" }))).toBe("409 Conflict");
        expect(await refusal(gangStatus(gang, {}, { resourceVersion: undefined }))).toBe("422 Invalid");
      });

      test("stays as it is when the spec changes, which counts the generation", async () => {
        const gang = await gangStatus(await createGang(), { phase: "Pending" });
        const body = { spec: { scheduleTimeoutSeconds: 7 }, status: { phase: "Scheduled" } };
        const changed = await ask<Gang & Json>("PATCH", gangs(gang.metadata.name), body, undefined, subject.admin);
        expect(changed.status).toEqual({ phase: "Pending" });
        expect(changed.metadata.generation).toBe(2);
      });

      test("a write that changes nothing makes no new version", async () => {
        const gang = await gangStatus(await createGang(), { phase: "Pending" });
        const same = await gangStatus(gang, { phase: "Pending" });
        expect(same.metadata.resourceVersion).toBe(gang.metadata.resourceVersion);
      });
    });

    describe("a ResourceClaim", () => {
      test("is protected from its creation", async () => {
        expect((await createClaim()).metadata.finalizers).toEqual([claimFinalizer]);
        expect((await createClaim([claimFinalizer])).metadata.finalizers).toEqual([claimFinalizer]);
      });

      test("takes allocation and consumers in one patch or one update", async () => {
        const patched = await allocated();
        expect(patched.status?.reservedFor?.map(({ uid }) => uid)).toEqual(["guard", "a"]);
        const { metadata } = await createClaim();
        const { name, namespace, uid, resourceVersion } = metadata;
        const updated = await ask<ResourceClaim>("PUT", claims(name, "status"), {
          apiVersion: "resource.k8s.io/v1",
          kind: "ResourceClaim",
          metadata: { name, namespace, uid, resourceVersion },
          status: { allocation: allocation("gpu-1"), reservedFor: [consumer("b")] },
        });
        expect(updated.status?.allocation?.devices?.results).toEqual([result("gpu-1")]);
        expect(updated.spec.devices?.requests).toHaveLength(1);
        expect(updated.metadata.finalizers).toEqual([claimFinalizer]);
      });

      test("tells who allocated it, whoever reserves it later, until it is given back", async () => {
        const { metadata } = await createClaim();
        const { name, namespace, uid, resourceVersion } = metadata;
        const path = claims(name, "status");
        const body = {
          apiVersion: "resource.k8s.io/v1",
          kind: "ResourceClaim",
          metadata: { name, namespace, uid, resourceVersion },
          status: { allocation: allocation(), reservedFor: [consumer("a")] },
        };
        const byPlanner = { query: { fieldManager: plannerName }, body };
        const claim = await subject.planner.request<ResourceClaim>("PUT", path, byPlanner);
        expect(projectClaim(claim).allocatedByPlanner).toBe(true);
        const shared = await patchClaim(claim, { reservedFor: [consumer("a"), consumer("b")] }, {}, subject.admin);
        expect(projectClaim(shared).allocatedByPlanner).toBe(true);
        const cleared = await patchClaim(shared, { allocation: null, reservedFor: null }, {}, subject.admin);
        expect(projectClaim(cleared).allocatedByPlanner).toBeUndefined();
        const query = { fieldManager: "somebody" };
        const again = { ...body, metadata: { ...body.metadata, resourceVersion: cleared.metadata.resourceVersion } };
        const other = await subject.planner.request<ResourceClaim>("PUT", path, { query, body: again });
        expect(projectClaim(other).allocatedByPlanner).toBeUndefined();
      });

      test("conflicts for whoever names an older version", async () => {
        const claim = await createClaim();
        await patchClaim(claim, { allocation: allocation(), reservedFor: [consumer("a")] });
        const late = patchClaim(claim, { allocation: allocation("gpu-1"), reservedFor: [consumer("b")] });
        expect(await refusal(late)).toBe("409 Conflict");
      });

      test("is refused for another claim of that name", async () => {
        const claim = await createClaim();
        expect(await refusal(patchClaim(claim, { reservedFor: null }, { uid: "another" }))).toBe("422 Invalid");
      });

      test("keeps its allocation as it is, to the second", async () => {
        const claim = await allocated();
        expect(await refusal(patchClaim(claim, { allocation: allocation("gpu-1") }))).toBe("422 Invalid");
        expect(await refusal(patchClaim(claim, { allocation: allocation("gpu-0", "2026-01-01T00:00:01Z") }))).toBe(
          "422 Invalid",
        );
        const same = await patchClaim(claim, { allocation: allocation(), reservedFor: claim.status?.reservedFor });
        expect(same.metadata.resourceVersion).toBe(claim.metadata.resourceVersion);
      });

      test("has no consumers without an allocation, and none twice", async () => {
        const claim = await createClaim();
        expect(await refusal(patchClaim(claim, { reservedFor: [consumer("a")] }))).toBe("422 Invalid");
        const reservedFor = [consumer("a"), consumer("a")];
        expect(await refusal(patchClaim(claim, { allocation: allocation(), reservedFor }))).toBe("422 Invalid");
        expect(await refusal(patchClaim(await allocated(), { allocation: null }))).toBe("422 Invalid");
      });

      test("is cleared of both in one patch", async () => {
        const cleared = await patchClaim(await allocated(), { allocation: null, reservedFor: null, devices: null });
        expect(cleared.status?.allocation).toBeUndefined();
        expect(cleared.status?.reservedFor).toBeUndefined();
      });

      test("loses consumers to a list without them, also the last one", async () => {
        const claim = await patchClaim(await allocated(), { reservedFor: [consumer("a")] });
        expect(claim.status?.reservedFor?.map(({ uid }) => uid)).toEqual(["a"]);
        const none = await patchClaim(claim, { reservedFor: [] });
        expect([none.status?.reservedFor, none.status?.allocation === undefined]).toEqual([undefined, false]);
      });

      test("loses one consumer to a strategic patch that names no version", async () => {
        const claim = await allocated();
        const body = {
          metadata: { uid: claim.metadata.uid },
          status: { reservedFor: [{ $patch: "delete", uid: "a" }] },
        };
        const left = await ask<ResourceClaim>(
          "PATCH",
          claims(claim.metadata.name, "status"),
          body,
          strategic,
          subject.admin,
        );
        expect(left.status?.reservedFor?.map(({ uid }) => uid)).toEqual(["guard"]);
      });

      test("is allocated by the planner alone; others may reserve it and take the allocation away", async () => {
        const claim = await createClaim();
        const status = { allocation: allocation(), reservedFor: [consumer("a")] };
        expect(await refusal(patchClaim(claim, status, {}, subject.admin))).toBe("403 Forbidden");
        const ours = await allocated([consumer("a")]);
        const more = await patchClaim(ours, { reservedFor: [consumer("a"), consumer("b")] }, {}, subject.admin);
        expect(more.status?.reservedFor).toHaveLength(2);
        const cleared = await patchClaim(more, { allocation: null, reservedFor: null }, {}, subject.admin);
        expect(cleared.status?.allocation).toBeUndefined();
      });

      test("that is deleted stays until its finalizer goes, and takes no new consumers", async () => {
        const claim = await allocated();
        const { name } = claim.metadata;
        await ask("DELETE", claims(name), undefined, undefined, subject.admin);
        const deleting = await ask<ResourceClaim>("GET", claims(name));
        expect(deleting.metadata.deletionTimestamp).toBeDefined();
        expect(await refusal(patchClaim(deleting, { reservedFor: [guard, consumer("b")] }))).toBe("422 Invalid");
        const cleared = await patchClaim(deleting, { allocation: null, reservedFor: null });
        await ask(
          "PATCH",
          claims(name),
          { metadata: { finalizers: null, resourceVersion: cleared.metadata.resourceVersion } },
          undefined,
          subject.admin,
        );
        expect(await refusal(ask("GET", claims(name)))).toBe("404 NotFound");
      });

      test("gets its finalizer back by a patch of the object, which leaves the status", async () => {
        const claim = await allocated();
        const { name, resourceVersion } = claim.metadata;
        const bare = await ask<ResourceClaim>("PATCH", claims(name), {
          metadata: { finalizers: null, resourceVersion },
        });
        expect(bare.metadata.finalizers).toBeUndefined();
        const body = {
          metadata: { resourceVersion: bare.metadata.resourceVersion, finalizers: [claimFinalizer] },
          status: {},
        };
        const kept = await ask<ResourceClaim>("PATCH", claims(name), body);
        expect(kept.metadata.finalizers).toEqual([claimFinalizer]);
        expect(kept.status).toEqual(claim.status);
      });
    });

    describe("a pod", () => {
      test("of a gang is gated and marked; another is not", async () => {
        const member = await createPod({ [gangLabel]: "g" });
        expect(member.spec.schedulingGates).toEqual([{ name: gangGate }]);
        expect(member.spec.containers[0]?.resources?.requests?.[bindMarker]).toBe("1");
        const other = await createPod();
        expect(other.spec.schedulingGates).toBeUndefined();
      });

      const lift = (pod: Pod, uid = pod.metadata.uid) =>
        ask<Pod>(
          "PATCH",
          pods(pod.metadata.name),
          { metadata: { uid }, spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] } },
          strategic,
        );
      const nominate = (pod: Pod, node: string | null) =>
        ask<Pod>(
          "PATCH",
          pods(pod.metadata.name, "status"),
          { metadata: { uid: pod.metadata.uid }, status: { nominatedNodeName: node } },
          strategic,
        );

      test("is nominated through its status and let go through its spec, by UID", async () => {
        const pod = await createPod({ [gangLabel]: "g" });
        expect((await nominate(pod, "n1")).status?.nominatedNodeName).toBe("n1");
        expect(await refusal(lift(pod, "another"))).toBe("422 Invalid");
        const free = await lift(pod);
        expect(free.spec.schedulingGates).toBeUndefined();
        expect(free.status?.nominatedNodeName).toBe("n1");
        const again = await lift(free);
        expect(again.metadata.resourceVersion).toBe(free.metadata.resourceVersion);
        const gates = { spec: { schedulingGates: [{ name: gangGate }] } };
        expect(await refusal(ask("PATCH", pods(pod.metadata.name), gates, strategic))).toBe("422 Invalid");
      });

      test("is bound once, by UID, and not while it is gated", async () => {
        const pod = await createPod({ [gangLabel]: "g" });
        expect(await refusal(bind(pod, "n1"))).toBe("409 Conflict");
        await nominate(await lift(pod), "n1");
        expect(await refusal(bind(pod, "n1", "another"))).toBe("409 Conflict");
        await bind(pod, "n1");
        const bound = await ask<Pod>("GET", pods(pod.metadata.name));
        expect([bound.spec.nodeName, bound.status?.nominatedNodeName]).toEqual(["n1", undefined]);
        expect(await refusal(bind(pod, "n1"))).toBe("409 Conflict");
        expect(await refusal(bind({ ...pod, metadata: { ...pod.metadata, name: "missing" } }, "n1"))).toBe(
          "404 NotFound",
        );
      });

      test("that is bound is deleted with grace, one that waits at once", async () => {
        const waiting = await createPod();
        await ask("DELETE", pods(waiting.metadata.name), undefined, undefined, subject.admin);
        expect(await refusal(ask("GET", pods(waiting.metadata.name)))).toBe("404 NotFound");
        const bound = await createPod();
        await bind(bound, "n1");
        await ask("DELETE", pods(bound.metadata.name), undefined, undefined, subject.admin);
        const ending = await ask<Pod>("GET", pods(bound.metadata.name));
        expect(ending.metadata.deletionTimestamp).toBeDefined();
        const other = { preconditions: { uid: "another" }, gracePeriodSeconds: 0 };
        expect(await refusal(ask("DELETE", pods(bound.metadata.name), other, undefined, subject.admin))).toBe(
          "409 Conflict",
        );
        await ask("DELETE", pods(bound.metadata.name), { gracePeriodSeconds: 0 }, undefined, subject.admin);
        expect(await refusal(ask("GET", pods(bound.metadata.name)))).toBe("404 NotFound");
      });
    });

    describe("an eviction", () => {
      const evict = (pod: Pod, uid = pod.metadata.uid) =>
        ask("POST", pods(pod.metadata.name, "eviction"), {
          apiVersion: "policy/v1",
          kind: "Eviction",
          metadata: { name: pod.metadata.name, namespace: subject.namespace },
          deleteOptions: { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid } },
        });
      const budgets = path("policy", "v1", "poddisruptionbudgets");

      async function runningPod(app: string): Promise<Pod> {
        const pod = await createPod({ app });
        await bind(pod, "n1");
        const status = { phase: "Running", conditions: [{ type: "Ready", status: "True" }] };
        return await ask<Pod>("PATCH", pods(pod.metadata.name, "status"), { status }, strategic, subject.admin);
      }

      async function createBudget(app: string, disruptionsAllowed: number): Promise<void> {
        const metadata = { name: fresh(), namespace: subject.namespace };
        const spec = { minAvailable: 1, selector: { matchLabels: { app } } };
        const body = { apiVersion: "policy/v1", kind: "PodDisruptionBudget", metadata, spec };
        await ask("POST", budgets(), body, undefined, subject.admin);
        const counts = { currentHealthy: 2, desiredHealthy: 1, expectedPods: 2, disruptionsAllowed };
        const status = { observedGeneration: 1, ...counts };
        await ask("PATCH", budgets(metadata.name, "status"), { status }, "application/merge-patch+json", subject.admin);
      }

      const isEnding = async (pod: Pod) =>
        (await ask<Pod>("GET", pods(pod.metadata.name))).metadata.deletionTimestamp !== undefined;

      test("ends a pod with grace, the one of that UID alone", async () => {
        const pod = await runningPod(fresh());
        expect(await refusal(evict(pod, "another"))).toBe("409 Conflict");
        expect(await isEnding(pod)).toBe(false);
        await evict(pod);
        expect(await isEnding(pod)).toBe(true);
        const missing = { ...pod, metadata: { ...pod.metadata, name: "missing" } };
        expect(await refusal(evict(missing))).toBe("404 NotFound");
      });

      test("is taken from the pod's budget, and refused when that is empty or there are two", async () => {
        const app = fresh();
        const [first, second] = [await runningPod(app), await runningPod(app)];
        await createBudget(app, 1);
        await evict(first);
        expect(await refusal(evict(second))).toBe("429 TooManyRequests");
        expect(await isEnding(second)).toBe(false);
        const other = fresh();
        const covered = await runningPod(other);
        await createBudget(other, 1);
        await createBudget(other, 1);
        expect(await refusal(evict(covered))).toMatch(/^500 /);
      });
    });

    describe("a Lease", () => {
      test("is replaced by whoever knows its version", async () => {
        const metadata = { name: fresh(), namespace: subject.namespace };
        const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec: { holderIdentity: "a" } };
        const lease = await ask<Json>("POST", leases(), body, undefined, subject.admin);
        const written = await ask<Json>(
          "PUT",
          leases(metadata.name),
          { ...lease, spec: { holderIdentity: "b" } },
          undefined,
          subject.admin,
        );
        expect(written.spec).toEqual({ holderIdentity: "b" });
        expect(await refusal(ask("PUT", leases(metadata.name), lease, undefined, subject.admin))).toBe("409 Conflict");
      });
    });

    describe("the fence", () => {
      const terms = (name?: string, subresource?: string) =>
        resourcePath({
          group: "scheduling.kllama.ai",
          version: "v1alpha1",
          resource: "plannerterms",
          name,
          subresource,
        });
      const name = plannerName;
      const within = { timeoutMs: 60_000 };
      /** Policies follow their parameter a moment later. */
      const untilRefused = async (as: KubeClient, term: Json, probe: string): Promise<void> => {
        const dry = { query: { dryRun: "All" }, body: { ...term, status: { probe } } };
        await eventually(
          "the policy knows the term",
          async () => {
            const outcome = await refusal(as.request("PUT", terms(name, "status"), dry));
            return outcome === "403 Forbidden" ? undefined : outcome;
          },
          within,
        );
      };
      /** The next test begins without a fence: a term of this one would refuse what it looks at to know its own. */
      const endTerm = async (): Promise<void> => {
        const gang = await createGang();
        await subject.admin.request("DELETE", terms(name));
        await eventually(
          "no term, no fence",
          async () => {
            const outcome = await refusal(gangStatus(gang, { phase: "Pending" }));
            return outcome === "accepted" ? undefined : outcome;
          },
          within,
        );
      };
      const kind = { apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "PlannerTerm" };
      const change = (term: Json, spec: object) =>
        subject.admin.request<Json>("PUT", terms(name), { body: { ...term, spec } });

      test("lets the holder of the PlannerTerm write and no other planner, once the policy knows the term", async () => {
        const [gang, claim, gated, free] = [
          await createGang(),
          await allocated(),
          await createPod({ [gangLabel]: "g" }),
          await createPod(),
        ];
        const body = { ...kind, metadata: { name }, spec: { holder: "somebody", epoch: 1 } };
        const term = await subject.admin.request<Json>("POST", terms(), { body });
        await untilRefused(subject.planner, term, "somebody");
        expect(await refusal(gangStatus(gang, { phase: "Pending" }))).toBe("403 Forbidden");
        expect(await refusal(patchClaim(claim, { reservedFor: [consumer("b")] }))).toBe("403 Forbidden");
        expect(await refusal(bind(free, "n1"))).toBe("403 Forbidden");
        const lift = { spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] } };
        expect(await refusal(ask("PATCH", pods(gated.metadata.name), lift, strategic))).toBe("403 Forbidden");
        expect(await refusal(ask("DELETE", pods(gated.metadata.name)))).toBe("403 Forbidden");
        const nominate = { status: { nominatedNodeName: "n1" } };
        expect(await refusal(ask("PATCH", pods(gated.metadata.name, "status"), nominate))).toBe("accepted");
        expect(await refusal(patchClaim(claim, { reservedFor: [consumer("b")] }, {}, subject.admin))).toBe("accepted");
        await endTerm();
      });

      test("a later term has a greater epoch; a dry run changes nothing", async () => {
        const body = { ...kind, metadata: { name }, spec: { holder: "a", epoch: 5 } };
        const term = await subject.admin.request<Json>("POST", terms(), { body });
        await untilRefused(subject.planner, term, "a");
        expect(await refusal(change(term, { holder: "a", epoch: 4 }))).toBe("422 Invalid");
        expect(await refusal(change(term, { holder: "b", epoch: 5 }))).toBe("422 Invalid");
        const dry = { query: { dryRun: "All" }, body: { ...term, spec: { holder: "b", epoch: 6 } } };
        expect(await refusal(subject.admin.request("PUT", terms(name), dry))).toBe("accepted");
        expect((await change(term, { holder: "a", epoch: 6 })).spec).toEqual({ holder: "a", epoch: 6 });
        await endTerm();
      });

      test("of the holder's writes only those of its present term pass, and deletions", async () => {
        const [gang, claim, gated, free] = [
          await createGang(),
          await allocated(),
          await createPod({ [gangLabel]: "g" }),
          await createPod(),
        ];
        const body = { ...kind, metadata: { name }, spec: { holder: subject.holder, epoch: 12 } };
        const term = await subject.admin.request<Json>("POST", terms(), { body });
        const lift = { spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] } };
        const binding = { metadata: { name: free.metadata.name }, target: { kind: "Node", name: "n1" } };
        const eviction = { metadata: { name: gated.metadata.name } };
        const attempts = (as: KubeClient): (() => Promise<unknown>)[] => [
          () => patchClaim(claim, { reservedFor: [consumer("b")] }, {}, as),
          () =>
            ask("PUT", gangs(gang.metadata.name, "status"), { ...gang, status: { phase: "Pending" } }, undefined, as),
          () => ask("PATCH", pods(gated.metadata.name), lift, strategic, as),
          () => ask("POST", pods(free.metadata.name, "binding"), binding, undefined, as),
          () => ask("POST", pods(gated.metadata.name, "eviction"), eviction, undefined, as),
        ];
        const outcomes = async (as: KubeClient): Promise<string[]> => {
          const all: string[] = [];
          for (const attempt of attempts(as)) all.push(await refusal(attempt()));
          return all;
        };
        const every = (outcome: string): string[] => attempts(subject.planner).map(() => outcome);
        const before = inTerm(subject.planner, () => 11);
        await untilRefused(before, term, subject.holder);
        expect(await outcomes(before)).toEqual(every("403 Forbidden"));
        expect(await outcomes(inTerm(subject.planner, () => 1))).toEqual(every("403 Forbidden"));
        expect(await outcomes(inTerm(subject.planner, () => undefined))).toEqual(every("403 Forbidden"));
        expect(await outcomes(subject.planner)).toEqual(every("403 Forbidden"));
        expect(await outcomes(inTerm(subject.planner, () => 12))).toEqual(every("accepted"));
        const last = await createPod({ [gangLabel]: "g" });
        expect(await refusal(ask("DELETE", pods(last.metadata.name)))).toBe("accepted");
        await endTerm();
      });
    });

    describe("a watch", () => {
      interface Event {
        type: string;
        object: Json;
      }

      /** Events of gangs until `enough`. */
      async function watch(
        query: Record<string, string | boolean>,
        enough: (events: Event[]) => boolean,
      ): Promise<Event[]> {
        const stop = new AbortController();
        const events: Event[] = [];
        const lines = subject.planner.lines(gangs(), {
          query: { watch: true, allowWatchBookmarks: true, ...query },
          signal: stop.signal,
        });
        try {
          for await (const line of lines) {
            events.push(JSON.parse(line) as Event);
            if (enough(events)) break;
          }
        } finally {
          stop.abort();
        }
        return events;
      }

      test("tells everything after its version, in order", async () => {
        const gang = await createGang();
        const written = await gangStatus(gang, { phase: "Pending" });
        const deleted = await ask<Json>("DELETE", gangs(gang.metadata.name), undefined, undefined, subject.admin);
        expect(deleted).toBeDefined();
        const version = String(Number(gang.metadata.resourceVersion) - 1);
        const about = ({ object }: Event): boolean => object.metadata.name === gang.metadata.name;
        const events = (await watch({ resourceVersion: version }, (seen) => seen.filter(about).length === 3)).filter(
          about,
        );
        expect(events.map(({ type }) => type)).toEqual(["ADDED", "MODIFIED", "DELETED"]);
        expect(events[1]?.object.metadata.resourceVersion).toBe(written.metadata.resourceVersion);
        const versions = events.map(({ object }) => Number(object.metadata.resourceVersion));
        expect(versions).toEqual([...versions].sort((a, b) => a - b));
        expect(new Set(versions).size).toBe(3);
      });

      test("streams a list, closed by a bookmark", async () => {
        const gang = await createGang();
        const query = { sendInitialEvents: true, resourceVersionMatch: "NotOlderThan" };
        const events = await watch(query, (seen) => seen.at(-1)?.type === "BOOKMARK");
        expect(events.some(({ object }) => object.metadata.name === gang.metadata.name)).toBe(true);
        const last = events.at(-1)?.object.metadata;
        expect(last?.annotations?.["k8s.io/initial-events-end"]).toBe("true");
        expect(Number(last?.resourceVersion)).toBeGreaterThanOrEqual(Number(gang.metadata.resourceVersion));
      });

      // The last one of all: an API server that was restarted may take half a minute to know the kind of a policy's parameter.
      test("from a compacted version is gone", async () => {
        const { metadata } = await createGang();
        await createGang();
        await subject.compact();
        await createGang();
        const events = await watch({ resourceVersion: metadata.resourceVersion ?? "" }, () => true).catch(
          (error: KubeError) => [{ type: "ERROR", object: { code: error.status } }],
        );
        expect(events[0]).toMatchObject({ type: "ERROR", object: { code: 410 } });
      });
    });
  });
}
