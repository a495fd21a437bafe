import { fileURLToPath } from "node:url";
import { wantsColor } from "./color.ts";
import { defineCommand, UsageError } from "./command.ts";

const fileOf = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export const demoCommand = defineCommand({
  name: "demo",
  summary: "Show it all on this machine: control plane, simulated fleet, kllama, examples.",
  description:
    "Starts a real etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok on loopback (binaries from KUBEBUILDER_ASSETS or PATH, else built once with Go), installs kllama, creates a fleet of simulated GPU nodes, applies the examples, waits until all of their pods are placed and ready, prints where they are, and stays up until Ctrl-C. Nothing is left when it ends. This is what npm start runs.",
  flags: {
    once: { type: "boolean", describe: "End when everything is placed: exit code 0, or 1 with the reasons." },
    output: {
      type: "string",
      short: "o",
      value: "FORMAT",
      default: "picture",
      describe: "What stdout gets: picture, or json: placements and rejections. All else goes to stderr.",
    },
    fleet: { type: "string", value: "FILE", describe: "Fleet to simulate. Default: fleets/default.yaml of kllama." },
    examples: {
      type: "string",
      value: "PATH",
      describe: "YAML file, or folder of them, to apply. Default: examples/ of kllama.",
    },
    "kubernetes-version": {
      type: "string",
      value: "VERSION",
      describe: "Version of the control plane: 1.36.3 (default) or 1.37.1.",
    },
    timeout: {
      type: "string",
      value: "SECONDS",
      default: "300",
      describe: "Time for the examples to become placed and ready, from their creation.",
    },
    "keep-data": { type: "boolean", describe: "Keep data, logs and kubeconfigs in a folder that is named at the end." },
    "no-color": { type: "boolean", describe: "No colours; also when NO_COLOR is set or stdout is no terminal." },
  },
  examples: [
    { what: "Look around with kubectl until Ctrl-C", command: "kllama demo" },
    { what: "The placements as JSON, for a script", command: "kllama demo --once -o json > placements.json" },
    { what: "Other machines, other work", command: "kllama demo --fleet my-fleet.yaml --examples my-examples/" },
  ],
  async run(values, streams) {
    const { output } = values;
    if (output !== "picture" && output !== "json") {
      throw new UsageError(`--output ${output} is not a format; use picture or json`);
    }
    const timeoutSeconds = Number(values.timeout);
    if (!/^\d+(\.\d+)?$/.test(values.timeout) || timeoutSeconds <= 0) {
      throw new UsageError(`--timeout ${values.timeout} is not a number of seconds above 0; write for example 120`);
    }
    const { defaultVersion, kubernetesVersions } = await import("../../tools/control-plane/binaries.ts");
    const wanted = values["kubernetes-version"] ?? defaultVersion;
    const version = kubernetesVersions.find((known) => known === wanted);
    if (version === undefined) {
      throw new UsageError(`--kubernetes-version ${wanted} is not known; use ${kubernetesVersions.join(" or ")}`);
    }
    const { runDemo } = await import("./demo/demo.ts");
    return runDemo({
      version,
      fleetFile: values.fleet ?? fileOf("fleets/default.yaml"),
      examples: values.examples ?? fileOf("examples"),
      once: values.once ?? false,
      output,
      timeoutMs: timeoutSeconds * 1000,
      keepData: values["keep-data"] ?? false,
      color: wantsColor(values["no-color"] ?? false, streams),
      streams,
    });
  },
});
