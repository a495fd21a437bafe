import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { afterEach, describe, expect, test } from "vitest";
import { type NodeAgentProcess, startNodeAgentProcess } from "../../../support/node-agent-process.ts";

/** Resident memory of the node agent, which stands on every node. */
const barMb = 120;

const started: NodeAgentProcess[] = [];

afterEach(async () => {
  for (const agent of started.splice(0)) await agent.remove();
});

/** Files with compiled code, by path, and when they were written. */
function compiled({ stateFolder }: NodeAgentProcess): Map<string, number> {
  const folder = join(stateFolder, "compile-cache");
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  return new Map(names.map((name) => [name, statSync(join(folder, name)).mtimeMs]));
}

describe("a node agent", () => {
  test("that starts for the first time has its code compiled by another process, and compiles nothing itself: its memory stays below 120 MB", async () => {
    // Whoever names a folder for compiled code has none made below the state folder.
    const environment = { NODE_COMPILE_CACHE: undefined };
    const agent = await startNodeAgentProcess(["--inventory", "simulated:dgx-h100"], environment);
    started.push(agent);
    expect(agent.memory().peakMb).toBeLessThan(barMb);
    const first = compiled(agent);
    const complete = [...first].find(([name]) => name.endsWith("/complete"))?.[1];
    expect(complete).toBeDefined();
    const since = [...first].filter(
      ([name, at]) => at > complete! && statSync(join(agent.stateFolder, "compile-cache", name)).isFile(),
    );
    expect(since).toEqual([]);
    await agent.restart();
    expect(agent.memory().peakMb).toBeLessThan(barMb);
    // Somebody tidied up.
    rmSync(join(agent.stateFolder, "compile-cache"), { recursive: true });
    await agent.restart();
    expect([...compiled(agent).keys()].some((name) => name.endsWith("/complete"))).toBe(true);
  });

  test("that was killed has its registration taken away before anything else is done, where nobody answers", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kllama-start-"));
    const registry = join(folder, "plugins_registry");
    mkdirSync(registry);
    const sockets = ["dead", "living"].map((uid) => [uid, join(registry, `gpu.kllama.ai-${uid}-reg.sock`)] as const);
    const script = `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
    await new Promise((resolve) => execFile(process.execPath, ["-e", script, sockets[0]![1]], resolve));
    const living = createServer().listen(sockets[1]![1]);
    try {
      expect(sockets.map(([, path]) => existsSync(path))).toEqual([true, true]);
      for (const [uid] of sockets) {
        // Neither of them comes far.
        const flags = ["--node-name", "n", "--inventory", "simulated:none", "--kubelet-dir", folder, "--pod-uid", uid];
        const stderr = await new Promise<string>((resolve) =>
          execFile(
            process.execPath,
            ["bin/start.mjs", "node-agent", ...flags, "--state-dir", folder],
            { env: { ...process.env, NODE_COMPILE_CACHE: join(folder, "cache") } },
            (_, __, text) => resolve(text),
          ),
        );
        expect(stderr).toContain("has no node type none");
      }
      expect(sockets.map(([, path]) => existsSync(path))).toEqual([false, true]);
    } finally {
      living.close();
      rmSync(folder, { recursive: true });
    }
  });

  test.each([
    "package.json/state",
    // Node's `mkdir` with `recursive` never came back from there.
    "/proc/kllama/state",
  ])("that cannot write its state folder %s says so, not that it cannot compile", async (folder) => {
    const flags = ["--node-name", "n", "--inventory", "simulated:dgx-h100", "--state-dir", folder];
    const stderr = await new Promise<string>((resolve) =>
      execFile(process.execPath, ["bin/start.mjs", "node-agent", ...flags], (_, __, text) => resolve(text)),
    );
    expect(stderr).toMatch(/^kllama node-agent: /);
    expect(stderr).toContain(folder.split("/").slice(0, 3).join("/"));
  });
});
