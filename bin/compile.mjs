// Compiles what the node agent may load into a cache, the one argument, and ends: see start.mjs.
import { writeFileSync } from "node:fs";
import { enableCompileCache, flushCompileCache } from "node:module";
import { join } from "node:path";
import process from "node:process";
import "./english.mjs";

const [folder] = process.argv.slice(2);
enableCompileCache(folder);
await Promise.all([
  import("../src/dra/driver/node-agent.ts"),
  import("../src/dra/driver/metrics.ts"),
  import("../src/dra/driver/host/open-machine.ts"),
  import("../src/dra/driver/nvidia/machine.ts"),
  import("../src/dra/driver/nvidia/nvidia-smi.ts"),
  import("../src/dra/driver/nvidia/nvml-child.ts"),
  import("../src/dra/driver/amd/machine.ts"),
  import("../src/kube/client.ts"),
  import("../src/kube/connection.ts"),
  import("../src/kube/kubeconfig.ts"),
  import("../src/simulator/fleet.ts"),
  import("../src/simulator/objects.ts"),
  import("../src/simulator/machine.ts"),
]);
process.once("exit", (code) => {
  flushCompileCache();
  if (code === 0) writeFileSync(join(folder, "complete"), "");
});
// The file that runs the command line can only be run.
process.argv = [process.execPath, "kllama", "--version"];
await import("../src/cli/main.ts");
