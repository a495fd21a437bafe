import { readFileSync } from "node:fs";
import { capacityCommand } from "./capacity-command.ts";
import { type Command, type Streams, UsageError } from "./command.ts";
import { demoCommand } from "./demo-command.ts";
import { nodeAgentCommand } from "./node-agent-command.ts";
import { operatorCommand } from "./operator-command.ts";
import { planCommand } from "./plan-command.ts";
import { plannerCommand } from "./planner-command.ts";
import { releaseCommand } from "./release-command.ts";
import { simulateFleetCommand } from "./simulate-fleet-command.ts";
import { snapshotCommand } from "./snapshot-command.ts";
import { nearest } from "./text.ts";

/** All commands, in the order in which `--help` lists them. */
export const commands: readonly Command[] = [
  demoCommand,
  planCommand,
  capacityCommand,
  snapshotCommand,
  plannerCommand,
  operatorCommand,
  nodeAgentCommand,
  releaseCommand,
  simulateFleetCommand,
];

/** Runs one command line. @returns the exit code: 0 done, 1 failed, 2 not understood. Never throws. */
export async function runCli(args: readonly string[], streams: Streams): Promise<number> {
  const [first, ...rest] = args;
  if (first === undefined || first === "--help" || first === "-h" || first === "help") return help(rest, streams);
  if (first === "--version" || first === "version") {
    streams.stdout.write(`kllama ${packageVersion()}\n`);
    return 0;
  }
  const command = commands.find(({ name }) => name === first);
  if (command === undefined) return unknown(first, streams);
  try {
    return await command.run(rest, streams);
  } catch (error) {
    return explain(command, error, streams);
  }
}

/** The help of the whole: what there is, and where to go on. */
export function overview(): string {
  const list = commands.map(({ name, summary }) => `  ${name.padEnd(18)}${summary}`).join("\n");
  return `kllama places LLM serving on Kubernetes: gangs of pods, nodes and devices together.

Usage: kllama COMMAND [flags]

Commands:
${list}

Flags:
  -h, --help        Print this help; after a command, the command's.
      --version     Print the version.

Examples:
  # Everything on this machine: a real control plane, a simulated fleet, four example workloads
  kllama demo

  # What a command can do
  kllama planner --help

Exit codes: 0 done, 1 failed, 2 the command line or the input was not understood, 3 something is not placed (plan,
capacity).
`;
}

function help([name]: readonly string[], streams: Streams): number {
  const command = commands.find((each) => each.name === name);
  if (name !== undefined && command === undefined) return unknown(name, streams);
  streams.stdout.write(command === undefined ? overview() : command.help());
  return 0;
}

function unknown(name: string, streams: Streams): number {
  const similar = nearest(
    name,
    commands.map((command) => command.name),
  );
  const kind = name.startsWith("-") ? "flag" : "command";
  const hint = similar === undefined ? "" : `; did you mean ${similar}?`;
  streams.stderr.write(`kllama: unknown ${kind} ${name}${hint}\nSee kllama --help\n`);
  return 2;
}

function explain(command: Command, error: unknown, streams: Streams): number {
  if (error instanceof UsageError) {
    streams.stderr.write(`kllama ${command.name}: ${error.message}\nSee kllama ${command.name} --help\n`);
    return 2;
  }
  streams.stderr.write(`kllama ${command.name}: ${error instanceof Error ? messageOf(error) : String(error)}\n`);
  return 1;
}

/** A fault of the program shows where it happened; what the world refused is said in one line. */
function messageOf(error: Error): string {
  const faults = [TypeError, ReferenceError, RangeError, SyntaxError];
  const isFault = faults.some((fault) => error instanceof fault) || error.name === "AssertionError";
  return isFault ? (error.stack ?? error.message) : error.message;
}

function packageVersion(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
