import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import process from "node:process";
import { driverName } from "../api/names.ts";
import type { WriteEffect } from "../extender/effects.ts";
import { defineCommand, type FlagValues, UsageError } from "./command.ts";
import { failpoint, tellingWrites } from "./failpoint.ts";
import { parseListen } from "./listen.ts";
import { createLog, processIdentity, serve, serviceFlags, whenReachable } from "./service.ts";

const flags = {
  ...serviceFlags,
  listen: {
    type: "string",
    value: "HOST:PORT",
    default: "127.0.0.1:8443",
    describe:
      "Where kube-scheduler reaches the extender; also serves /capacity, /healthz, /readyz and /metrics. Port 0: any.",
  },
  "tls-cert": { type: "string", value: "FILE", describe: "Certificate of the server, PEM." },
  "tls-key": { type: "string", value: "FILE", describe: "Its private key, PEM." },
  "client-ca": {
    type: "string",
    value: "FILE",
    describe:
      "Clients must show a certificate of this authority, PEM. The three TLS flags belong together; without them only a loopback address may be listened on.",
  },
  "client-name": {
    type: "string",
    value: "NAME",
    multiple: true,
    describe: "Common name that a client's certificate may have, such as kube-scheduler's. Default: any.",
  },
  "metrics-client-name": {
    type: "string",
    value: "NAME",
    multiple: true,
    describe:
      "Common name that a client's certificate must have to read /metrics, and that may call nothing else. Default: those of --client-name.",
  },
  "capacity-client-name": {
    type: "string",
    value: "NAME",
    multiple: true,
    describe:
      "Common name that a client's certificate must have to ask for /capacity, and that may call nothing else. Default: those of --client-name.",
  },
  namespace: {
    type: "string",
    value: "NAME",
    default: "kllama-system",
    describe: "Namespace of the Lease that elects the leader.",
  },
  "managed-driver": {
    type: "string",
    value: "DRIVER",
    multiple: true,
    describe: `DRA driver whose devices kllama alone allocates. Default: ${driverName}.`,
  },
  "audit-seconds": {
    type: "string",
    value: "SECONDS",
    default: "600",
    describe:
      "Time between two audits, give or take a fifth: fresh lists of claims, pods and Gangs are compared with what is known, differences are logged, counted and put right. 0: none.",
  },
  "released-pods": {
    type: "string",
    value: "N",
    default: "64",
    describe:
      "Members of gangs that are released to kube-scheduler and not yet bound at a time; a larger gang is released alone.",
  },
  "max-gang-pods": {
    type: "string",
    value: "N",
    default: "2000",
    describe: "Pods that one gang may have, at most 2000; a larger one is refused with the reason GangTooLarge.",
  },
  "max-namespace-pods": {
    type: "string",
    value: "N",
    default: "10000",
    describe:
      "Pods that the gangs of one namespace may hold places for; beyond it they are refused with the reason NamespaceLimit.",
  },
  "drain-after-seconds": {
    type: "string",
    value: "SECONDS",
    default: "300",
    describe:
      "A gang that has been refused for want of room for so long has a room reserved: those behind it in the queue are kept off the places that it takes once those who are there now have left. One gang at a time, the first of the queue. 0: never.",
  },
  "no-preemption": {
    type: "boolean",
    describe:
      "Gangs of higher priority wait for room instead of having others evicted. PodDisruptionBudgets are not read then.",
  },
  "reclaim-seconds": {
    type: "string",
    value: "SECONDS",
    default: "60",
    describe:
      "Devices that kllama allocated and nobody uses (a claim without consumers that no pod names) are given back when two looks so far apart see them so. 0: never.",
  },
} as const;

export const plannerCommand = defineCommand({
  name: "planner",
  summary: "Run the planner: kube-scheduler's extender that places gangs.",
  description:
    "Plans gangs and single pods with claims, reserves their devices and nodes, and answers kube-scheduler's filter, prioritize, preempt and bind calls. Several replicas may run: the holder of the Lease kllama-planner plans, the others stand by. A replica that loses the Lease, or whose PlannerTerm somebody else takes, exits with code 1.",
  flags,
  examples: [
    { what: "On this machine, for a scheduler beside it", command: "kllama planner --kubeconfig planner.kubeconfig" },
    {
      what: "Reachable from elsewhere, for kube-scheduler alone",
      command:
        "kllama planner --listen 0.0.0.0:8443 --tls-cert tls.crt --tls-key tls.key --client-ca ca.crt --client-name system:kube-scheduler",
    },
  ],
  async run(values, _streams) {
    const listen = parseListen("listen", values.listen);
    const tls = await readTls(values, listen.host);
    const auditPeriodMs = parseSeconds("audit-seconds", values["audit-seconds"]) * 1000;
    const plannerLimits = readLimits(values);
    const reapGraceMs = parseSeconds("reclaim-seconds", values["reclaim-seconds"]) * 1000;
    const log = createLog("planner", values["log-level"]);
    const die = failpoint(process.env["KLLAMA_FAILPOINT"]);
    return serve(log, async (fail) => {
      const [
        { startPlanner },
        { createFence },
        { createClient },
        { loadConnection },
        { readHolder },
        { policyFault },
        { systemTiming },
      ] = await Promise.all([
        import("../extender/planner.ts"),
        import("../extender/term.ts"),
        import("../kube/client.ts"),
        import("../kube/connection.ts"),
        import("../kube/planner-term.ts"),
        import("../kube/policy-presence.ts"),
        import("../kube/timing.ts"),
      ]);
      const connected = createClient(await loadConnection({ kubeconfigPath: values.kubeconfig }), {
        userAgent: "kllama-planner",
        // More than writes can take: the Lease is renewed in time however slow they are.
        maxConnections: 40,
      });
      const client = die === undefined ? connected : tellingWrites(connected, die);
      const holder = await whenReachable(log, () => readHolder(client));
      const planner = await startPlanner({
        client,
        log,
        // A container that is restarted in its pod keeps the Lease: nobody else can be that holder.
        identity: holder.pod ?? processIdentity(),
        fence: createFence({
          client,
          holder: holder.id,
          policyFault: () => policyFault(client, values["managed-driver"] ?? [driverName]),
          log,
          timing: systemTiming,
        }),
        namespace: values.namespace,
        listen,
        auditPeriodMs,
        // Loaded when somebody asks: it brings the readers of all kinds.
        readWork: async (body) => (await import("./capacity/read-work.ts")).readWork(body),
        reapGraceMs,
        ...(values["managed-driver"] === undefined ? {} : { managedDrivers: values["managed-driver"] }),
        ...(tls === undefined ? {} : { tls }),
        plannerLimits,
        preemption: values["no-preemption"] !== true,
        ...(die === undefined ? {} : { onWritten: (effect) => die(effectName(effect)) }),
        onLost: (why) => fail(`${why}; exit, so that a fresh process begins anew`),
      });
      log.info({ url: planner.url }, "listening");
      return {
        ready: planner.active,
        async stop() {
          await planner.stop();
          await client.close();
        },
      };
    });
  },
});

/** `writeStatus/Reserved`, `reserveClaim`, `releasePod`, `writeStatus/Binding`, `bind`, … */
function effectName(effect: WriteEffect): string {
  return effect.type === "writeStatus" ? `writeStatus/${effect.status.phase}` : effect.type;
}

/** Whole or broken seconds from 0 up. */
function parseSeconds(flag: string, text: string): number {
  if (!/^\d{1,9}(\.\d+)?$/.test(text)) {
    throw new UsageError(`--${flag} ${text} is not a number of seconds from 0 up; write for example 600`);
  }
  return Number(text);
}

function readLimits(values: FlagValues<typeof flags>) {
  const read = (flag: "released-pods" | "max-gang-pods" | "max-namespace-pods"): number => {
    const value = Number(values[flag]);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw new UsageError(`--${flag} ${values[flag]} is not a positive whole number`);
  };
  return {
    releasedPods: read("released-pods"),
    gangPods: read("max-gang-pods"),
    namespacePods: read("max-namespace-pods"),
    drainAfterMs: parseSeconds("drain-after-seconds", values["drain-after-seconds"]) * 1000,
  };
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

async function readTls(values: FlagValues<typeof flags>, host: string) {
  const files = [values["tls-cert"], values["tls-key"], values["client-ca"]] as const;
  const given = files.filter((file) => file !== undefined).length;
  if (given !== 0 && given !== 3) {
    throw new UsageError("--tls-cert, --tls-key and --client-ca belong together; give all three or none");
  }
  const clientNames = values["client-name"];
  const metricsNames = values["metrics-client-name"];
  const capacityNames = values["capacity-client-name"];
  if (given === 0) {
    for (const flag of ["client-name", "metrics-client-name", "capacity-client-name"] as const) {
      if (values[flag] !== undefined) throw new UsageError(`--${flag} needs --tls-cert, --tls-key and --client-ca`);
    }
    if (!isLoopback(host)) {
      throw new UsageError(
        `--listen ${host}: anybody who reaches this address could bind pods; give --tls-cert, --tls-key and --client-ca, or listen on 127.0.0.1`,
      );
    }
    return undefined;
  }
  const [cert, key, ca] = (await Promise.all(files.map((file) => readFile(file!, "utf8")))) as [string, string, string];
  return {
    cert,
    key,
    ca,
    ...(clientNames === undefined ? {} : { clientNames }),
    ...(metricsNames === undefined ? {} : { metricsNames }),
    ...(capacityNames === undefined ? {} : { capacityNames }),
  };
}
