import { createClock } from "../../simulation/clock.ts";
import { createNetwork } from "../../simulation/network.ts";
import { createProcess } from "../../simulation/process.ts";
import { createRandom } from "../../simulation/random.ts";
import { describeApiContract } from "../../support/api-contract.ts";
import { plannerAccount } from "../../support/api-double/rules.ts";
import { createApiServer } from "../../support/api-double/server.ts";

describeApiContract("the API server double keeps the contract", async () => {
  const clock = createClock();
  const random = createRandom(1);
  let uids = 0;
  const api = createApiServer({
    nowMs: () => clock.nowMs,
    newUid: () => {
      uids += 1;
      return `uid-${uids}`;
    },
    injects: () => false,
  });
  const network = createNetwork(api, clock, random);
  const process = createProcess("test", clock, random);
  const running = runAlong(clock);
  return {
    admin: network.client(process, "admin"),
    planner: network.client(process, plannerAccount),
    holder: plannerAccount,
    namespace: "contract",
    compact: () => {
      api.store.compact();
      return Promise.resolve();
    },
    close: async () => {
      process.kill();
      clock.stop();
      await running;
    },
  };
});

/** Virtual time passes as fast as the tests ask for it. */
async function runAlong(clock: ReturnType<typeof createClock>): Promise<void> {
  while (!clock.stopped) {
    await clock.run(clock.nowMs + 10);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
