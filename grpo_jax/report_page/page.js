// The page: header, warnings, tables, sections of charts; and the live loop.

const $ = id => document.getElementById(id);
const charts = new Charts();
const completions = new Completions($('completions'));
let data = JSON.parse($('data').textContent);

function table(content, kind) {
  // Numbers to the right, with their titles.
  const texts = content.columns.map((_, i) => kind === 'words' || content.rows.some(r => !/^([-+]?[\d.]|-?$)/.test(r[i])));
  const row = (cells, tag) => el('tr', {}, ...cells.map((text, i) => el(tag, {text, class: texts[i] ? 'text' : ''})));
  return el('div', {class: 'scroll', tabindex: '0'}, el('table', {class: kind || ''},
    el('thead', {}, row(content.columns, 'th')),
    el('tbody', {}, ...content.rows.map(r => row(r, 'td')))));
}

function renderHeader() {
  const runs = data.groups.flatMap(g => g.runs);
  const evaluated = data.tables.stages ? data.tables.stages.rows.map(r => r[0]) : [];
  const names = (data.groups.length ? data.groups.map(g => g.name) : data.waiting.length ? data.waiting : evaluated).join(', ');
  $('title').textContent = names.length > 120 && data.groups.length ? data.groups.length + ' groups of runs' : names;
  document.title = $('title').textContent + ' – grpo_jax report';
  const steps = runs.length > 4 ? [runs.length + ' runs'] : runs.map(r =>
    (runs.length > 1 ? r.name + ': ' : '') + 'step ' + r.step + ' of ' + r.steps);
  const waiting = data.waiting.length ? ['no step yet: ' + data.waiting.join(', ')] : [];
  $('subtitle').replaceChildren([...steps, ...waiting, 'made ' + data.made].join(' · '));
  $('subtitle').append(el('span', {id: 'hint', text: ' · drag in a chart to zoom, double-click to go back'}));
  if (data.live) $('subtitle').prepend(el('span', {id: 'live', class: 'live', text: 'live'}), ' · ');
}

function renderContents() {
  const titles = [...document.querySelectorAll('main h2')].filter(h => h.parentElement.id);
  $('contents').replaceChildren(...titles.map(h => el('a', {href: '#' + h.parentElement.id, text: h.textContent})));
}

function renderLegend() {
  $('legend').hidden = data.groups.length < 2;
  $('legend').replaceChildren(...data.groups.map((group, i) => {
    const many = group.runs.length > 1 ? ' (' + group.runs.length + ' runs)' : '';
    const button = el('button', {'aria-pressed': String(!charts.hidden.has(nameOf(group))), title: 'show or hide'},
      swatch(i), group.name + many);
    button.onclick = () => {
      if (!charts.hidden.delete(nameOf(group))) charts.hidden.add(nameOf(group));
      renderLegend();
      renderSections();
    };
    return button;
  }));
  // A heading that is jumped to is not to be under the bar.
  const bar = getComputedStyle($('bar')).position === 'sticky' ? $('bar').offsetHeight : 0;
  document.documentElement.style.scrollPaddingTop = bar + 'px';
}

function renderWarnings() {
  const of = state => data.warnings.filter(r => r.state === state);
  const found = of('found').map(row => {
    const link = el('a', {href: '#chart:' + row.metric, text: row.metric, class: 'mono'});
    const cases = row.cases.map(c => el('p', {text: (data.groups.flatMap(g => g.runs).length > 1 ? c.run + ': ' : '') + c.text}));
    return el('div', {class: 'warning ' + (row.bad ? 'bad' : 'watch')},
      el('h3', {text: row.title + ' '}, link), ...cases, el('p', {class: 'quiet', text: row.todo}));
  });
  const names = state => of(state).map(r => r.title).join(' · ');
  const rest = [];
  if (of('clear').length) rest.push(el('p', {class: 'quiet', text: 'Looked for and not found: ' + names('clear')}));
  if (of('unknown').length) rest.push(el('p', {class: 'quiet', text: 'Not looked for, as it is not measured here, or not often enough yet: ' + names('unknown')}));
  if (!data.warnings.length) {
    // An evaluation alone waits for none.
    $('warnings').replaceChildren(...(data.waiting.length ? [el('p', {text: 'Waiting for the first step.'})] : []));
    return;
  }
  const title = found.length ? 'Worth a look' : 'Nothing stands out';
  $('warnings').replaceChildren(el('h2', {text: title}), ...found, ...rest);
}

function renderTables() {
  const {runs, stages, configs} = data.tables;
  const put = (id, title, content, kind, note) => $(id).replaceChildren(...(content && content.rows.length
    ? [el('h2', {text: title}), ...(note ? [el('p', {class: 'quiet', text: note})] : []), table(content, kind)] : []));
  put('runs', 'Runs', runs, '', runs && 'By ' + runs.metric + ': of evaluations the last, of others the mean over the last tenth.');
  put('stages', 'Evaluations', stages, '', '± one standard error');
  const single = data.groups.length < 2;
  put('configs', single ? 'Config' : 'Config differences', configs, 'words', single && 'Where it differs from the defaults.');
}

function phases() {
  const names = [...new Set(data.phases.flatMap(p => Object.keys(p.parts)))];
  const total = p => Object.values(p.parts).reduce((a, b) => a + b, 0);
  const longest = Math.max(...data.phases.map(total));
  const white = ['#0b62b8', '#b5430f', '#18774e', '#8c2b84', '#755c00', '#0c7488', '#a81f40', '#4c45b0'];
  const rows = data.phases.flatMap(p => [
    el('span', {text: data.phases.length > 1 ? p.group : ''}),
    el('div', {class: 'phase', style: {width: 100 * total(p) / longest + '%'}}, ...names.filter(n => p.parts[n]).map(n =>
      el('div', {title: n + ' ' + short(p.parts[n]) + ' s', text: p.parts[n] > 0.12 * longest ? n : '',
        style: {flex: p.parts[n] / total(p) + ' 0 0', background: white[names.indexOf(n) % white.length], paddingLeft: p.parts[n] > 0.12 * longest ? '' : '0'}}))),
    el('span', {text: short(total(p)) + ' s'})]);
  const keys = names.map((n, i) => el('span', {}, el('i', {class: 'swatch', style: {background: white[i % white.length]}}),
    data.phases.length > 1 ? n : n + ' ' + short(data.phases[0].parts[n]) + ' s'));
  return [el('p', {class: 'quiet', text: 'Seconds a step by phase, mean over the run:'}),
    el('div', {class: 'keys'}, ...keys), el('div', {class: 'phases'}, ...rows)];
}

function renderSections() {
  charts.clear();
  const draws = [];
  $('sections').replaceChildren(...data.sections.map(section => {
    const cards = section.charts.map(chart => {
      const {card, draw} = charts.card(chart, data.groups);
      draws.push(draw);
      return card;
    });
    const more = section.title === 'Throughput' && data.phases.length ? phases() : [];
    if (section.title === 'Thinking') {
      more.push(el('p', {class: 'quiet', text: 'Of the logged completions. The ten words of DeepSeek-R1: ' + data.words.join(', ') + '.'}));
    }
    const constant = section.constant.length ? [el('p', {class: 'quiet', text: 'Never moved: ' + section.constant.join(', ') + '.'})] : [];
    return el('section', {id: 'section:' + section.title}, el('h2', {text: section.title}), ...more, el('div', {class: 'grid'}, ...cards), ...constant);
  }));
  // Widths are known once all cards are in the page.
  draws.forEach(draw => draw());
}

function render() {
  renderHeader();
  renderLegend();
  renderWarnings();
  renderTables();
  renderSections();
  completions.update(data.completions);
  renderContents();
}

async function follow() {
  let lost = '';
  try {
    const answer = await fetch('data.json?seen=' + data.live.version);
    if (answer.status === 200) {
      data = await answer.json();
      render();
    } else if (answer.status !== 204) {
      lost = await answer.text();
    }
  } catch {
    lost = 'the server has stopped; this is the last state';
  }
  const live = $('live');
  live.className = lost ? 'lost' : 'live';
  live.textContent = lost || 'live';
  setTimeout(follow, 1000 * data.live.refresh);
}

$('smooth').oninput = () => {
  charts.smooth = Number($('smooth').value); // percent of the steps
  renderSections();
};
dark.addEventListener('change', () => { renderLegend(); renderSections(); });
render();
if (data.live) setTimeout(follow, 1000 * data.live.refresh);
