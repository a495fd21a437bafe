import process from "node:process";
import { driverBench } from "./driver.ts";
import { gangBench } from "./gang.ts";
import { hungExtender } from "./hung-extender.ts";
import { exactBench, peersBench } from "./judged.ts";
import { openbBench } from "./openb.ts";
import { planBench } from "./plan.ts";
import { throughput } from "./throughput.ts";

const benchmarks: Record<string, { summary: string; run: (args: string[]) => Promise<void> }> = {
  throughput: {
    summary: "pods per second: stock kube-scheduler, kllama in gangs, plain pods without claims",
    run: throughput,
  },
  plan: {
    summary: "milliseconds of one plan, from 10 to 100,000 nodes, empty to nearly full",
    run: planBench,
  },
  gang: {
    summary: "one gang of 2,000 pods on a real control plane: all or nothing, how fast, and what memory it takes",
    run: gangBench,
  },
  "hung-extender": {
    summary: "what plain pods lose while 64 released members wait for an extender that hangs",
    run: hungExtender,
  },
  openb: {
    summary: "share of GPUs allocated on a trace of Alibaba, beside Random, BestFit and FGD",
    run: openbBench,
  },
  driver: {
    summary: "milliseconds of the node agent's calls by number of devices, 110 pods at once, and its memory",
    run: driverBench,
  },
  peers: {
    summary: "gangs that fit and are missed by first fit, sums alone, best fit and kllama",
    run: peersBench,
  },
  exact: {
    summary: "the planner judged by an exact solver on 200 mid-size instances",
    run: exactBench,
  },
};

const [name = "--help", ...args] = process.argv.slice(2);
const benchmark = benchmarks[name];
if (benchmark === undefined) {
  const known = Object.entries(benchmarks).map(([key, { summary }]) => `  ${key.padEnd(14)} ${summary}`);
  const help = `usage: npm run bench -- NAME [FLAGS]\n\n${known.join("\n")}\n\nnpm run bench -- NAME --help tells the flags.\n`;
  if (name === "--help" || name === "-h") process.stdout.write(help);
  else {
    process.stderr.write(`there is no benchmark ${name}\n\n${help}`);
    process.exitCode = 2;
  }
} else {
  await benchmark.run(args);
}
