import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { defineConfig } from "vitest/config";

// Three projects: what needs no cluster runs in parallel; what asks Kubernetes' own allocator builds that first, with
// Go; what starts a control plane runs one file at a time, because two real control planes on two cores measure each
// other.
export default defineConfig({
  test: {
    // A run ends, whatever a test left behind.
    globalSetup: ["test/support/ending.ts"],
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/unit/**/*.test.ts", "test/property/**/*.test.ts", "test/golden/**/*.test.ts"],
          globalSetup: ["test/support/seed.ts"],
          setupFiles: ["test/support/seed.ts"],
          // For a test that hangs: how long another one takes is the machine's affair.
          testTimeout: 240_000,
          hookTimeout: 240_000,
        },
      },
      {
        test: {
          name: "judge",
          include: ["test/judge/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
      {
        test: {
          name: "cluster",
          // Processes of kllama that tests start share their compiled code: compiling takes each of them half of its start.
          env: { NODE_COMPILE_CACHE: join(tmpdir(), `kllama-test-compile-cache-${process.getuid?.() ?? 0}`) },
          include: ["test/cluster/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 1_800_000,
        },
      },
    ],
  },
});
