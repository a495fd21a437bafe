import { execFile } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Writable } from "node:stream";
import { afterAll, describe, expect, test } from "vitest";
import { commands, overview, runCli } from "../../../src/cli/run.ts";
import { runOnTerminal } from "../../support/terminal.ts";

function sink() {
  const chunks: string[] = [];
  const stream = new Writable({
    write(chunk, _encoding, done) {
      chunks.push(String(chunk));
      done();
    },
  });
  return { stream, text: () => chunks.join("") };
}

async function run(line: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const stdout = sink();
  const stderr = sink();
  const streams = { stdout: stdout.stream, stderr: stderr.stream, env: {} };
  const words = line.split(" ").filter((word) => word !== "");
  return { code: await runCli(words, streams), stdout: stdout.text(), stderr: stderr.text() };
}

describe("a command line that is not understood exits with 2 and says what to write", () => {
  test.for([
    ["plannr", "kllama: unknown command plannr; did you mean planner?\nSee kllama --help\n"],
    ["xyz", "kllama: unknown command xyz\nSee kllama --help\n"],
    ["help xyz", "unknown command xyz"],
    ["--verbose", "kllama: unknown flag --verbose\n"],
    ["planner --listn x", "kllama planner: unknown flag --listn; did you mean --listen?\nSee kllama planner --help\n"],
    ["planner -x", "unknown flag -x"],
    ["planner --listen", "flag --listen needs a value: --listen=HOST:PORT"],
    ["planner --listen 8443", "--listen 8443 is not HOST:PORT"],
    ["planner --listen 127.0.0.1:99999", "--listen 127.0.0.1:99999 is not HOST:PORT"],
    ["planner --listen 0.0.0.0:8443", "--listen 0.0.0.0: anybody who reaches this address could bind pods"],
    ["planner --tls-cert a --tls-key b", "--tls-cert, --tls-key and --client-ca belong together"],
    ["planner --client-name x", "--client-name needs --tls-cert"],
    ["planner --metrics-client-name x", "--metrics-client-name needs --tls-cert"],
    ["planner --capacity-client-name x", "--capacity-client-name needs --tls-cert"],
    [
      "planner --audit-seconds often",
      "--audit-seconds often is not a number of seconds from 0 up; write for example 600",
    ],
    ["release", "give the name of one pod, or --all"],
    ["release p --all", "give the name of one pod, or --all"],
    ["release p q", 'unexpected argument "q"; one POD at a time'],
    ["planner --log-level loud", "--log-level loud is not a level; use one of trace, debug"],
    ["operator --help=yes", "flag --help takes no value"],
    ["operator now", 'unexpected argument "now"'],
    ["operator --listen x", "unknown flag --listen"],
    ["operator --log-level x", "--log-level x is not a level"],
    ["node-agent", "--node-name NAME is missing; give the name of this Node"],
    ["node-agent --node-name n --inventory tpu", "--inventory tpu: write auto, nvidia, amd or simulated:NODE_TYPE"],
    ["node-agent --node-name n --inventory simulated:tpu", "has no node type tpu; use one of gb200-nvl72, dgx-h100"],
    ["node-agent --node-name n --pod-uid ../x", "--pod-uid ../x is no UID; give metadata.uid of the pod"],
    ["node-agent --node-name n --metrics-address x", "--metrics-address x is not HOST:PORT"],
    ["simulate-fleet", "--fleet FILE is missing"],
    ["simulate-fleet --fleet", "flag --fleet needs a value: --fleet=FILE"],
    ["demo -o yaml", "--output yaml is not a format; use picture or json"],
    ["demo --timeout soon", "--timeout soon is not a number of seconds above 0"],
    ["demo --timeout 0", "--timeout 0 is not a number"],
    ["demo --kubernetes-version 1.20.0", "--kubernetes-version 1.20.0 is not known; use 1.36.3 or 1.37.1"],
    ["demo --onc", "unknown flag --onc; did you mean --once?"],
  ] as const)("%s", async ([line, message]) => {
    const { code, stdout, stderr } = await run(line);
    expect(stderr).toContain(message);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });
});

describe("what the world refuses exits with 1 and names it", () => {
  test.for([
    ["simulate-fleet --fleet /nowhere.yaml", "/nowhere.yaml"],
    ["simulate-fleet --fleet package.json", "package.json: nodeTypes: missing"],
    ["planner --tls-cert /nowhere.crt --tls-key /nowhere.key --client-ca /nowhere.ca", "/nowhere."],
  ] as const)("%s", async ([line, message]) => {
    const { code, stderr } = await run(line);
    expect(stderr).toContain(message);
    expect(code).toBe(1);
  });
});

describe("help", () => {
  test.for(["", "--help", "-h", "help"])("of the whole: %j", async (line) => {
    expect(await run(line)).toEqual({ code: 0, stdout: overview(), stderr: "" });
  });

  test.for(commands.map((command) => ({ command, name: command.name })))("of $name", async ({ command, name }) => {
    for (const line of [`${name} --help`, `${name} -h`, `help ${name}`]) {
      expect(await run(line)).toEqual({ code: 0, stdout: command.help(), stderr: "" });
    }
    expect(command.help()).toMatch(/^Usage: kllama .*\n[\s\S]*\nExamples:\n {2}# /);
    for (const line of command.help().split("\n")) expect(line.length, line).toBeLessThanOrEqual(130);
    expect(overview()).toContain(`  ${name} `);
  });

  test("is what docs/cli.md says", () => {
    const page = readFileSync("docs/cli.md", "utf8");
    for (const text of [overview(), ...commands.map((command) => command.help())]) {
      expect(page).toContain(`\`\`\`text\n${text}\`\`\``);
    }
  });
});

describe("bin/kllama", () => {
  const folder = mkdtempSync(join(tmpdir(), "kllama-bin-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const version = (JSON.parse(readFileSync("package.json", "utf8")) as { version: string }).version;

  function shell(
    file: string,
    env: Record<string, string> = {},
  ): Promise<{ code: number; stdout: string; stderr: string }> {
    return new Promise((done) => {
      const options = { cwd: folder, env: { PATH: process.env["PATH"] ?? "", ...env } };
      const child = execFile(file, ["--version"], options, (_, stdout, stderr) =>
        done({ code: child.exitCode ?? -1, stdout, stderr }),
      );
    });
  }

  test("runs from another directory, through absolute and relative links", async () => {
    mkdirSync(join(folder, "deep"));
    symlinkSync(resolve("bin/kllama"), join(folder, "deep", "absolute"));
    symlinkSync("deep/absolute", join(folder, "relative"));
    expect(await shell(join(folder, "relative"))).toEqual({ code: 0, stdout: `kllama ${version}\n`, stderr: "" });
  });

  test("exits with its code on a terminal too", async () => {
    const program = resolve("bin/kllama");
    expect(await runOnTerminal(program, ["--version"])).toEqual({ code: 0, shown: `kllama ${version}\r\n` });
    expect(await runOnTerminal(program, ["nonsense"])).toMatchObject({ code: 2 });
  });

  const alone = join(folder, "alone", "bin");
  function withoutModules(nodeVersion?: string): Record<string, string> {
    mkdirSync(alone, { recursive: true });
    copyFileSync("bin/kllama", join(alone, "kllama"));
    const path = mkdtempSync(join(folder, "path-"));
    for (const tool of ["sh", "dirname", "readlink", "sed"]) symlinkSync(`/bin/${tool}`, join(path, tool));
    if (nodeVersion !== undefined) {
      writeFileSync(join(path, "node"), `#!/bin/sh\ntest "$1" = --version && echo ${nodeVersion} || echo ran "$@"\n`);
      chmodSync(join(path, "node"), 0o755);
    }
    return { PATH: path };
  }

  test.for([undefined, "v20.19.5", "nonsense"])("says what to do where the only Node is %s", async (nodeVersion) => {
    const { code, stdout, stderr } = await shell(join(alone, "kllama"), withoutModules(nodeVersion));
    expect(stderr).toMatch(/^kllama: needs Node 24 or newer, and \S+\/alone has none: run 'npm ci' there, or put/);
    expect(stderr.split("\n")).toHaveLength(2);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  });

  test("takes a Node of 24 or newer from PATH", async () => {
    const { code, stdout } = await shell(join(alone, "kllama"), withoutModules("v26.1.0"));
    expect(stdout).toMatch(/^ran (--\S+ )*\S+\/alone\/bin\/start\.mjs --version\n$/);
    expect(code).toBe(0);
  });
});
