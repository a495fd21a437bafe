import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import { type Child, startChild } from "../../src/cli/system/children.ts";
import { node } from "./driver.ts";
import { connectKubelet } from "./kubelet-client.ts";

/** The node agent as a process of its own, with an API server that knows one Node and the claims it is given. */
export interface NodeAgentProcess {
  draSocket: string;
  registrationSocket: string;
  /** Name → what the API server says, in namespace `team`. */
  claims: Map<string, ResourceClaim>;
  stateFolder: string;
  cdiFolder: string;
  /** Megabytes (10⁶ bytes) of resident memory: now, and the most that it ever was. */
  memory(): { nowMb: number; peakMb: number };
  /** Milliseconds of processor time since its last start, in steps of 10. */
  cpuMs(): number;
  /** Ends it, and starts it again on what it left. */
  restart(): Promise<void>;
  /** SIGKILL, and started again at once. @returns milliseconds until the kubelet has what it needs to register it. */
  killAndRestart(): Promise<number>;
  /** Rejects when it ended by itself. */
  remove(): Promise<void>;
}

/** An API server that knows one Node and the claims it is given. */
export interface ClaimServer {
  /** Name → what it says, in namespace `team`. */
  claims: Map<string, ResourceClaim>;
  /** Bodies of all requests that write. */
  written: string[];
  kubeconfig: string;
  close(): void;
}

/** `endOfList`: watches say when their list is over, without which nothing is published. */
export async function serveClaims({ endOfList = false } = {}): Promise<ClaimServer> {
  const claims = new Map<string, ResourceClaim>();
  const written: string[] = [];
  const server = createServer((request, response) => {
    void answer(request, response, { claims, written, endOfList });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    ...{ claims, written },
    kubeconfig: kubeconfig((server.address() as AddressInfo).port),
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** `environment`: variables beside those of this process. */
export async function startNodeAgentProcess(
  flags: readonly string[],
  environment: Record<string, string | undefined> = {},
): Promise<NodeAgentProcess> {
  const server = await serveClaims();
  const folder = mkdtempSync(join(tmpdir(), "kllama-agent-"));
  const at = (name: string): string => join(folder, name);
  mkdirSync(at("state"));
  writeFileSync(at("kubeconfig"), server.kubeconfig);
  const all = [
    ...["--kubeconfig", at("kubeconfig"), "--node-name", node, "--metrics-address", "127.0.0.1:0"],
    ...["--kubelet-dir", at("kubelet"), "--cdi-dir", at("cdi"), "--state-dir", at("state"), ...flags],
  ];
  const start = async (): Promise<Child> => {
    const started = startChild({
      name: "node-agent",
      flags: all,
      logDir: folder,
      environment: environment as Record<string, string>,
    });
    await started.ready;
    return started;
  };
  let child = await start();
  return {
    draSocket: at("kubelet/plugins/gpu.kllama.ai/dra.sock"),
    registrationSocket: at("kubelet/plugins_registry/gpu.kllama.ai-reg.sock"),
    claims: server.claims,
    stateFolder: at("state"),
    cdiFolder: at("cdi"),
    memory() {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      const figure = (name: string): number =>
        (Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) * 1024) / 1e6;
      return { nowMb: figure("VmRSS"), peakMb: figure("VmHWM") };
    },
    cpuMs() {
      const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
      // utime and stime in hundredths of a second: proc_pid_stat(5).
      return (Number(fields[11]) + Number(fields[12])) * 10;
    },
    async restart() {
      await child.stop();
      child = await start();
    },
    async killAndRestart() {
      const startedAt = performance.now();
      child.kill();
      await child.exited;
      const starting = start();
      await answersGetInfo(at("kubelet/plugins_registry/gpu.kllama.ai-reg.sock"));
      const tookMs = performance.now() - startedAt;
      child = await starting;
      return tookMs;
    },
    async remove() {
      try {
        await Promise.race([child.failed, child.stop()]);
      } finally {
        server.close();
        rmSync(folder, { recursive: true, force: true });
      }
    },
  };
}

const pauseMs = 10;

/** Resolves when it is answered there. */
export async function answersGetInfo(socket: string): Promise<void> {
  for (;;) {
    const kubelet = connectKubelet(socket, socket);
    try {
      await kubelet.getInfo();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    } finally {
      kubelet.close();
    }
  }
}

function kubeconfig(port: number): string {
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    "current-context": "test",
    contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
    clusters: [{ name: "test", cluster: { server: `http://127.0.0.1:${port}` } }],
    users: [{ name: "test", user: { token: "test" } }],
  });
}

const endOfInitialEvents = {
  type: "BOOKMARK",
  object: { metadata: { resourceVersion: "1", annotations: { "k8s.io/initial-events-end": "true" } } },
};

/** Claims as they are; a Node; what is written comes back as it was sent; a collection is empty, and nothing happens in it. */
async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { claims, written, endOfList }: { claims: ReadonlyMap<string, ResourceClaim>; written: string[]; endOfList: boolean },
): Promise<void> {
  const name = /\/resourceclaims\/([^/?]+)/.exec(request.url ?? "")?.[1];
  const claim = name === undefined ? undefined : claims.get(name);
  // First, and at once: a hundred claims are read at a time.
  if (request.method === "GET" && claim !== undefined) {
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(claim));
    return;
  }
  const { pathname, searchParams } = new URL(request.url ?? "", "http://localhost");
  const json = (body: object, code = 200): void =>
    void response.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(body));
  let sent = "";
  for await (const chunk of request) sent += String(chunk);
  if (sent !== "") written.push(sent);
  if (name !== undefined) {
    if (claim !== undefined) json(claim);
    else json({ kind: "Status", status: "Failure", reason: "NotFound", message: `no claim ${name}` }, 404);
  } else if (request.method !== "GET") json(JSON.parse(sent) as object);
  else if (searchParams.has("watch")) {
    response.writeHead(200).flushHeaders();
    if (endOfList) response.write(`${JSON.stringify(endOfInitialEvents)}\n`);
  } else if (pathname.endsWith(`/nodes/${node}`)) json({ metadata: { name: node, uid: node } });
  else json({ metadata: { resourceVersion: "1" }, items: [] });
}
