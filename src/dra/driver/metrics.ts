import type { AddressInfo } from "node:net";
import process from "node:process";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

// Not imported: that reads all exports of the module, and Node loads an HTTP client of its own for some of them.
const { createServer } = process.getBuiltinModule("node:http");

/** The node agent's metrics. Labels come from closed sets: never a pod, claim or device. */
export interface DriverMetrics {
  registry: Registry;
  callSeconds: Histogram<"verb">;
  claims: Counter<"verb" | "outcome">;
  prepared: Gauge;
  devices: Gauge<"health">;
  registered: Gauge;
  sliceWrites: Counter;
  repairs: Counter<"kind">;
  errors: Counter<"part">;
}

export function createDriverMetrics(): DriverMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, prefix: "kllama_" });
  return {
    registry,
    callSeconds: new Histogram({
      name: "kllama_driver_call_duration_seconds",
      help: "Time to answer the kubelet.",
      labelNames: ["verb"],
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    }),
    claims: new Counter({
      name: "kllama_driver_claims_total",
      help: "Claims in calls of the kubelet by verb (prepare, unprepare) and outcome (ok, failed).",
      labelNames: ["verb", "outcome"],
      registers,
    }),
    prepared: new Gauge({ name: "kllama_driver_prepared_claims", help: "Claims in the checkpoint.", registers }),
    devices: new Gauge({
      name: "kllama_driver_devices",
      help: "Devices of the node (GPUs and partitions) by health (ok, unhealthy, unknown, lost).",
      labelNames: ["health"],
      registers,
    }),
    registered: new Gauge({
      name: "kllama_driver_registered",
      help: "1 once the kubelet has accepted the registration.",
      registers,
    }),
    sliceWrites: new Counter({
      name: "kllama_driver_slice_writes_total",
      help: "ResourceSlices written or deleted.",
      registers,
    }),
    repairs: new Counter({
      name: "kllama_driver_repairs_total",
      help: "What reconciling put right: claims undone, CDI specs without a claim removed.",
      labelNames: ["kind"],
      registers,
    }),
    errors: new Counter({
      name: "kllama_driver_errors_total",
      help: "Failures outside of calls, by part (slices, status, reconcile, recovery, registration, boards: one is gone with something of a claim left on it).",
      labelNames: ["part"],
      registers,
    }),
  };
}

export interface MetricsServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Prometheus and the kubelet have one each. In a pod anybody may connect, and this process has little memory. */
const defaultLimits = { connections: 256, patienceMs: 10_000 };

/** What the kubelet asks by `/readyz` and `/healthz`. */
export interface Probes {
  isReady(): boolean;
  /** Why the process is to be started anew; undefined: it is not. */
  failure(): Promise<string | undefined>;
}

/** Serves `/metrics`, `/healthz` and `/readyz`. Rejects when the address is taken. */
export async function serveMetrics(
  registry: Registry,
  listen: { host: string; port: number },
  { isReady, failure }: Probes,
  { connections, patienceMs } = defaultLimits,
): Promise<MetricsServer> {
  const times = {
    ...{ headersTimeout: patienceMs, requestTimeout: patienceMs, keepAliveTimeout: patienceMs },
    connectionsCheckingInterval: patienceMs / 2,
  };
  const server = createServer(times, (request, response) => {
    const end = (status: number, text: string): void => void response.writeHead(status).end(text);
    if (request.method !== "GET" && request.method !== "HEAD") end(405, "GET only\n");
    else if (request.url === "/healthz")
      void failure().then((why) => end(why === undefined ? 200 : 503, `${why ?? "ok"}\n`));
    else if (request.url === "/readyz")
      end(isReady() ? 200 : 503, isReady() ? "ok\n" : "not registered or slices not published\n");
    else if (request.url !== "/metrics") end(404, "there are /metrics, /healthz and /readyz\n");
    else {
      registry.metrics().then(
        (text) => response.writeHead(200, { "content-type": registry.contentType }).end(text),
        (error: Error) => end(500, `${error.message}\n`),
      );
    }
  });
  server.maxConnections = connections;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(listen.port, listen.host, resolve);
  });
  const { address, port, family } = server.address() as AddressInfo;
  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
