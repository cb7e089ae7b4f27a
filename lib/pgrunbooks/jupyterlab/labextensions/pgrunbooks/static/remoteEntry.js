// JupyterLab on a workspace: launcher cards, and above each runbook the target picker and the button for a record.
// It is loaded as it stands, without a build: JupyterLab hands over its own packages in `init`.
(() => {
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><g class="jp-icon3" stroke="#616161"
    stroke-width="1.5" stroke-linecap="round" style="fill: none"><ellipse cx="12" cy="5" rx="7" ry="2.6"/>
    <path d="M5 5v14c0 1.4 3.1 2.6 7 2.6s7-1.2 7-2.6V5"/><path d="m9.2 13.6 2 2 3.8-4"/></g></svg>`;
  const TARGET = /^(target\s*(?::[^=\n]*)?=\s*)(["'])(.*?)\2/m; // of the parameters cell
  let packages;

  async function load(name) {
    const [provided] = Object.values(packages[name]);
    return (await provided.get())();
  }

  async function ask(path, request = {}) {
    const { ServerConnection } = await load("@jupyterlab/services");
    const settings = ServerConnection.makeSettings();
    const response = await ServerConnection.makeRequest(`${settings.baseUrl}pgrunbooks/${path}`, request, settings);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    return answer;
  }

  async function addStyle() {
    const { PageConfig } = await load("@jupyterlab/coreutils");
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = `${PageConfig.getBaseUrl()}pgrunbooks/style.css`;
    document.head.append(link);
  }

  async function openStartPage(app) {
    const { PageConfig } = await load("@jupyterlab/coreutils");
    await app.restored;
    const isEmpty = [...app.shell.widgets("main")].every((it) => it.id.startsWith("launcher"));
    if (!isEmpty || PageConfig.getOption("treePath")) return; // somebody knows already where to go
    await app.commands.execute("docmanager:open", { path: "notebooks/start.md", factory: "Markdown Preview" });
  }

  async function addCards(app, launcher) {
    const { LabIcon } = await load("@jupyterlab/ui-components");
    app.commands.addCommand("pgrunbooks:open", {
      label: (page) => `${page.label}\n${page.title}`,
      caption: (page) => page.title,
      icon: new LabIcon({ name: "pgrunbooks:page", svgstr: ICON }),
      execute: (page) => app.commands.execute("docmanager:open", { path: page.path }),
    });
    const { pages } = await ask("pages");
    pages.forEach((args, rank) => {
      const [category, categoryRank] = args.path.startsWith("runbooks/") ? ["Runbooks", -2] : ["Walkthroughs", -1];
      launcher.add({ command: "pgrunbooks:open", args, category, categoryRank, rank });
    });
  }

  /** Put the bar above a runbook: both of its halves read and write the parameters cell, where everybody sees it. */
  async function addBar(app, panel, context) {
    await Promise.all([context.ready, panel.revealed]);
    const cell = [...panel.content.model.cells].find((it) => (it.getMetadata("tags") ?? []).includes("parameters"));
    if (!context.path.startsWith("runbooks/") || !cell || !TARGET.test(cell.sharedModel.source)) return;
    const { PageConfig } = await load("@jupyterlab/coreutils");
    const { Widget } = await load("@lumino/widgets");
    const { NotebookActions } = await load("@jupyterlab/notebook");
    const { Notification } = await load("@jupyterlab/apputils");

    const bar = new Widget();
    bar.addClass("pgrunbooks-bar");
    bar.node.innerHTML = `<label>Target <select></select></label>
      <button title="Run every cell of this page">Run all</button>
      <button title="Save this page and run it with its parameters, in a process of its own">Run into a record</button>
      <button title="Save this page and make a job of it, once or by a schedule">Schedule</button>`;
    const [picker, runAll, runIntoRecord, schedule] = bar.node.querySelectorAll("select, button");
    let targets = [];

    const chosen = () => TARGET.exec(cell.sharedModel.source)?.[3] ?? "";
    const show = () => {
      const names = [...new Set([...targets, chosen()])];
      picker.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen())));
    };
    const refresh = async () => {
      try {
        ({ targets } = await ask("targets"));
      } catch (error) {
        Notification.error(error.message, { autoClose: 10000 });
      }
      show();
    };
    const record = async () => {
      runIntoRecord.disabled = true;
      const open = (path) => window.open(`${PageConfig.getBaseUrl()}files/${path}`, "_blank", "noopener");
      const pending = Notification.emit(`Running on ${chosen()} into a record ...`, "in-progress", { autoClose: false });
      try {
        await context.save();
        const body = JSON.stringify({ path: context.path });
        const { status, headline, page } = await ask("records", { method: "POST", body });
        const actions = [{ label: "Open the report", callback: () => open(page) }];
        const message = `${status.toUpperCase()}: ${headline}`;
        Notification.update({ id: pending, message, type: "success", autoClose: false, actions });
      } catch (error) {
        Notification.update({ id: pending, message: error.message, type: "error", autoClose: false });
      } finally {
        runIntoRecord.disabled = false;
      }
    };

    picker.addEventListener("focus", refresh);
    picker.addEventListener("change", () => {
      const source = cell.sharedModel.source;
      cell.sharedModel.setSource(source.replace(TARGET, (_, head, quote) => head + quote + picker.value + quote));
    });
    runAll.addEventListener("click", async () => {
      await panel.sessionContext.ready;
      await NotebookActions.runAll(panel.content, panel.sessionContext);
      panel.content.node.querySelector(".jp-Cell:has(.pgr)")?.scrollIntoView(); // JupyterLab goes to the last cell
    });
    runIntoRecord.addEventListener("click", record);
    schedule.addEventListener("click", async () => {
      await context.save();
      await app.commands.execute("docmanager:show-in-file-browser"); // jupyter-scheduler takes what is selected there
      await app.commands.execute("scheduling:create-from-notebook");
    });
    schedule.hidden = !app.commands.hasCommand("scheduling:create-from-notebook");
    cell.sharedModel.changed.connect(show);
    panel.toolbar.insertItem(0, "pgrunbooks", bar);
    await refresh();
  }

  async function extension() {
    const { ILauncher } = await load("@jupyterlab/launcher");
    const plugin = {
      id: "pgrunbooks:workspace",
      autoStart: true,
      requires: [ILauncher],
      activate: (app, launcher) => {
        const report = (error) => console.error("pgrunbooks:", error);
        for (const step of [addStyle(), addCards(app, launcher), openStartPage(app)]) step.catch(report);
        app.docRegistry.addWidgetExtension("Notebook", {
          createNew: (panel, context) => void addBar(app, panel, context).catch(report),
        });
      },
    };
    return { __esModule: true, default: plugin };
  }

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB.pgrunbooks = {
    init: (scope) => void (packages = scope),
    get: async () => {
      const module = await extension();
      return () => module;
    },
  };
})();
