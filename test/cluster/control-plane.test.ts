import { execFile, spawn } from "node:child_process";
import { access, readdir, readFile } from "node:fs/promises";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import type { TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { resolveBinaries } from "../../tools/control-plane/binaries.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import type { Kubeconfig } from "../../tools/control-plane/kubeconfig.ts";
import { componentNames } from "../../tools/control-plane/layout.ts";
import { auditLines } from "../support/audit-log.ts";

let plane: ControlPlane;

beforeAll(async () => {
  plane = await startControlPlane({ auditLog: true });
  // kube-controller-manager makes it; without it no pod is created.
  await waitFor("create", "serviceaccount/default");
});
afterAll(() => plane?.stop());

/** Runs kubectl, with objects on its standard input; rejects with what it says on stderr. */
function kubectl(args: string[], objects: object[] = [], as: Kubeconfig = plane.admin): Promise<string> {
  return new Promise((resolve, reject) => {
    const all = ["--kubeconfig", as.path, ...args];
    const child = execFile(plane.binaries.kubectl, all, (error, stdout, stderr) =>
      error ? reject(new Error(stderr || error.message)) : resolve(stdout.trim()),
    );
    child.stdin?.end(objects.map((object) => stringify(object)).join("---\n"));
  });
}

const apply = (...objects: object[]) => kubectl(["apply", "-f", "-"], objects);
const waitFor = (condition: string, object: string) => kubectl(["wait", `--for=${condition}`, object, "--timeout=60s"]);
const running = (pod: string) => waitFor("jsonpath={.status.phase}=Running", `pod/${pod}`);
const phase = (pod: string) => kubectl(["get", "pod", pod, "-o", "jsonpath={.status.phase}"]);

const node = (name: string, labels = {}) => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name, labels: { "simulator.kllama.ai/node": "true", ...labels } },
});
const pod = (name: string, spec = {}, annotations = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, annotations },
  spec: { containers: [{ name: "main", image: "none" }], ...spec },
});
const driver = "test.kllama.ai";
const deviceObjects = (nodeName: string) => [
  { apiVersion: "resource.k8s.io/v1", kind: "DeviceClass", metadata: { name: driver } },
  {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: nodeName },
    spec: {
      driver,
      nodeName,
      pool: { name: nodeName, generation: 1, resourceSliceCount: 1 },
      devices: [{ name: "gpu-0" }],
    },
  },
  {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name: "one" },
    spec: { spec: { devices: { requests: [{ name: "gpu", exactly: { deviceClassName: driver } }] } } },
  },
];

describe("a control plane", () => {
  test("runs what was asked for", async () => {
    expect([...plane.components.keys()].sort()).toEqual([...componentNames].sort());
    expect(plane.versions["kube-apiserver"]).toBe("1.36.3");
    const { serverVersion } = JSON.parse(await kubectl(["version", "-o", "json"]));
    expect(serverVersion.gitVersion).toBe("v1.36.3");
    const policies = await kubectl(["api-resources", "--api-group=admissionregistration.k8s.io"]);
    expect(policies).toMatch(/mutatingadmissionpolicies +admissionregistration\.k8s\.io\/v1 /);
  });

  test("a simulated node gets ready without a taint, a pod runs on it and is gone at once when deleted", async () => {
    await apply(node("simulated"), pod("plain", { initContainers: [{ name: "first", image: "none" }] }));
    await waitFor("condition=Ready", "node/simulated");
    expect(await kubectl(["get", "node", "simulated", "-o", "jsonpath={.spec.taints}"])).toBe("");
    await running("plain");
    await waitFor("condition=Ready", "pod/plain");
    await kubectl(["delete", "pod", "plain", "--timeout=60s"]);
  });

  test("a pod with claims gets ready when its claims are said to be prepared, not before", async () => {
    const resourceClaims = [{ name: "gpu", resourceClaimTemplateName: "one" }];
    await apply(...deviceObjects("simulated"), pod("claiming", { resourceClaims }));
    await waitFor("condition=PodScheduled", "pod/claiming");
    // kwok saw the claiming pod bound before it saw this one.
    await apply(pod("later"));
    await running("later");
    expect(await phase("claiming")).toBe("Pending");
    await kubectl(["annotate", "pod", "claiming", "simulator.kllama.ai/prepared=true"]);
    await running("claiming");
    await kubectl(["delete", "pod", "claiming", "later"]);
  });

  test("nodes of others and lost nodes are left alone", async () => {
    await apply(
      { ...node("foreign"), metadata: { name: "foreign" } },
      node("lost", { "simulator.kllama.ai/lost": "true" }),
      pod("on-lost", { nodeName: "lost" }),
      node("witness"),
    );
    await waitFor("condition=Ready", "node/witness");
    for (const name of ["foreign", "lost"]) {
      expect(await kubectl(["get", "node", name, "-o", "jsonpath={.status.conditions}"])).toBe("");
    }
    expect(await phase("on-lost")).toBe("Pending");
    await kubectl(["label", "node", "lost", "simulator.kllama.ai/lost-"]);
    await running("on-lost");
    await kubectl(["delete", "node", "foreign", "lost", "witness"]);
  });
});

describe("identities", () => {
  test("a user without rights is refused", async () => {
    const nobody = await plane.kubeconfigFor("nobody", ["some-group"]);
    const whoami = JSON.parse(await kubectl(["auth", "whoami", "-o", "json"], [], nobody));
    expect(whoami.status.userInfo).toMatchObject({
      username: "nobody",
      groups: ["some-group", "system:authenticated"],
    });
    await expect(kubectl(["get", "pods"], [], nobody)).rejects.toThrow(
      /Forbidden.*"nobody" cannot list resource "pods"/,
    );
    await expect(kubectl(["get", "secrets", "-A"], [], nobody)).rejects.toThrow("Forbidden");
  });

  test("a ServiceAccount has the rights that RBAC grants it, and its token names the pod it is bound to", async () => {
    await kubectl(["create", "serviceaccount", "planner"]);
    await kubectl(["create", "clusterrole", "reader", "--verb=list", "--resource=nodes"]);
    await kubectl([
      "create",
      "clusterrolebinding",
      "reader",
      "--clusterrole=reader",
      "--serviceaccount=default:planner",
    ]);
    await apply(pod("holder", { serviceAccountName: "planner" }));
    await running("holder");
    const uid = await kubectl(["get", "pod", "holder", "-o", "jsonpath={.metadata.uid}"]);
    const account = await plane.serviceAccountKubeconfig("default", "planner", { pod: { name: "holder", uid } });
    const whoami = JSON.parse(await kubectl(["auth", "whoami", "-o", "json"], [], account));
    expect(whoami.status.userInfo).toMatchObject({
      username: "system:serviceaccount:default:planner",
      extra: { "authentication.kubernetes.io/pod-uid": [uid] },
    });
    // The API server's authorizer follows roles and bindings a moment later.
    const nodes = () => kubectl(["get", "nodes", "-o", "name"], [], account);
    await expect.poll(nodes, { timeout: 60_000 }).toContain("node/simulated");
    await expect(kubectl(["get", "pods"], [], account)).rejects.toThrow("Forbidden");
  });

  test("no token for an account that does not exist", async () => {
    await expect(plane.serviceAccountKubeconfig("default", "nobody")).rejects.toThrow(
      /default\/nobody \(404\).*Create the ServiceAccount/s,
    );
  });

  test("the audit log names verb, resource and user of each write", async () => {
    await apply(pod("counted"));
    await running("counted");
    const usersOf = async (verb: string, subresource: string) =>
      (await auditLines(plane, '"counted"'))
        .filter(({ verb: is, objectRef }) => is === verb && objectRef?.subresource === subresource)
        .filter(({ objectRef }) => objectRef?.resource === "pods" && objectRef.name === "counted")
        .map(({ user }) => user.username);
    await expect.poll(() => usersOf("patch", "status"), { timeout: 60_000 }).toContain("system:kwok");
    expect(await usersOf("create", "binding")).toEqual(["system:kube-scheduler"]);
    const stages = new Set((await auditLines(plane)).map(({ stage }) => stage));
    stages.delete("Panic");
    expect(stages).toEqual(new Set(["ResponseComplete"]));
  });
});

describe("components", () => {
  test("kube-scheduler works again after kill -9, and knows that it was dead", async () => {
    const scheduler = plane.component("kube-scheduler");
    const before = scheduler.pid;
    await scheduler.kill("SIGKILL");
    expect(await scheduler.exited).toEqual({ code: null, signal: "SIGKILL" });
    expect(scheduler.pid).toBeUndefined();
    await scheduler.restart();
    expect(scheduler.pid).not.toBe(before);
    await apply(pod("after-restart"));
    await running("after-restart");
  });

  test("kube-scheduler calls an extender over mutual TLS with certificates issued here", async () => {
    const seen: { user: string; nodes: string[] }[] = [];
    const serving = await plane.issueCertificate({ commonName: "x", ipAddresses: ["127.0.0.1"], usages: ["server"] });
    const client = await plane.issueCertificate({ commonName: "caller", usages: ["client"] });
    const tls = { cert: serving.certificatePem, key: serving.keyPem, ca: plane.authorityPem, requestCert: true };
    const extender = https.createServer({ ...tls, rejectUnauthorized: true }, async (call, answer) => {
      const { NodeNames } = JSON.parse((await call.toArray()).join(""));
      seen.push({ user: String((call.socket as TLSSocket).getPeerCertificate().subject.CN), nodes: NodeNames });
      answer.end(JSON.stringify({ NodeNames }));
    });
    await new Promise<void>((resolve) => extender.listen(0, "127.0.0.1", resolve));
    const base64 = (text: string) => Buffer.from(text).toString("base64");
    await plane.startScheduler({
      percentageOfNodesToScore: 100,
      extenders: [
        {
          urlPrefix: `https://127.0.0.1:${(extender.address() as AddressInfo).port}`,
          filterVerb: "filter",
          nodeCacheCapable: true,
          enableHTTPS: true,
          tlsConfig: {
            caData: base64(plane.authorityPem),
            certData: base64(client.certificatePem),
            keyData: base64(client.keyPem),
          },
        },
      ],
    });
    await apply(pod("extended"));
    await running("extended");
    expect(seen).toEqual([{ user: "caller", nodes: ["simulated"] }]);
    extender.closeAllConnections();
    extender.close();
  });

  test("data survive kill -9 of etcd and kube-apiserver", async () => {
    for (const name of ["kube-apiserver", "etcd"] as const) {
      await plane.component(name).kill("SIGKILL");
      await plane.component(name).exited;
    }
    await plane.component("etcd").restart();
    await plane.component("kube-apiserver").restart();
    expect(await phase("extended")).toBe("Running");
  });

  test("one that cannot start fails the start with the end of its log, and leaves nothing", async () => {
    const binaries = await resolveBinaries({ version: "1.36.3" });
    const failing = startControlPlane({
      binaries,
      components: [],
      extraArgs: { "kube-apiserver": ["--no-such-flag"] },
    });
    const message = await failing.then(
      () => "",
      (error: Error) => error.message,
    );
    expect(message).toMatch(/^kube-apiserver ended with code 1 before it was ready.*unknown flag: --no-such-flag/s);
    const dataDir = dirname(dirname(/\((.*kube-apiserver\.log)\)/.exec(message)![1]!));
    expect(await processesOf(dataDir)).toEqual([]);
    await expect(access(dataDir)).rejects.toThrow("ENOENT");
  });
});

/** Command lines of processes on this machine that mention the data directory. */
async function processesOf(dataDir: string): Promise<string[]> {
  const ids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(ids.map((id) => readFile(join("/proc", id, "cmdline"), "utf8").catch(() => "")));
  return lines.filter((line) => line.includes(dataDir)).map((line) => line.replaceAll("\0", " "));
}

test("kill -9 of the process that started it leaves no process and no file", async () => {
  const main = fileURLToPath(new URL("../../tools/control-plane/main.ts", import.meta.url));
  const owner = spawn(process.execPath, [main, "--profile", "chaos"], { stdio: ["ignore", "pipe", "pipe"] });
  owner.stderr.resume();
  const [line] = await createInterface(owner.stdout)
    [Symbol.asyncIterator]()
    .next()
    .then(({ value }) => /^export KUBECONFIG=(.*)$/.exec(value ?? "") ?? [])
    .then(([, path = ""]) => [path]);
  const dataDir = dirname(dirname(line!));
  // Five components and their supervisor.
  expect(await processesOf(dataDir)).toHaveLength(6);
  owner.kill("SIGKILL");
  await expect.poll(() => processesOf(dataDir), { timeout: 60_000, interval: 50 }).toEqual([]);
  await expect(access(dataDir)).rejects.toThrow("ENOENT");
});
