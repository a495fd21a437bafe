import { readFile } from "node:fs/promises";
import { defineCommand, UsageError } from "./command.ts";
import { createLog, serve, serviceFlags, whenReachable } from "./service.ts";

export const simulateFleetCommand = defineCommand({
  name: "simulate-fleet",
  summary: "Run a fleet of simulated nodes: devices, prepared claims, no containers.",
  description:
    "Creates the Nodes and ResourceSlices that a fleet file describes and acts as the node agent of all of them: it prepares the claims of pods bound there, so that kwok may report the pods ready, and refuses a device that is used twice. No container runs. The nodes stay when it ends.",
  flags: {
    ...serviceFlags,
    fleet: {
      type: "string",
      value: "FILE",
      describe: "YAML file of node types and racks, such as fleets/default.yaml.",
    },
  },
  examples: [
    {
      what: "Two NVL72 racks, DGX H100, DGX A100 with MIG and PCIe nodes",
      command: "kllama simulate-fleet --fleet fleets/default.yaml --kubeconfig simulator.kubeconfig",
    },
  ],
  async run(values, _streams) {
    if (values.fleet === undefined)
      throw new UsageError("--fleet FILE is missing; for example --fleet fleets/default.yaml");
    const log = createLog("fleet", values["log-level"]);
    const [{ startFleet }, { parseFleet }, { createClient }, { loadConnection }] = await Promise.all([
      import("../simulator/fleet-agent.ts"),
      import("../simulator/fleet.ts"),
      import("../kube/client.ts"),
      import("../kube/connection.ts"),
    ]);
    const fleet = parseFleet(await readFile(values.fleet, "utf8"), values.fleet);
    return serve(log, async () => {
      const client = createClient(await loadConnection({ kubeconfigPath: values.kubeconfig }), {
        userAgent: "kllama-simulator",
      });
      const handle = await whenReachable(log, () => startFleet({ client, fleet, log }));
      return {
        ready: Promise.resolve(),
        async stop() {
          await handle.stop();
          log.info({ ...handle.stats() }, "fleet");
          await client.close();
        },
      };
    });
  },
});
