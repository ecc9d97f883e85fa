"""A task that fails while the gate is closed, and so keeps what stands after it from running (Airflow 3)."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("release", params={"base": "base", "tuned": "runs/latest"}) as dag:
    audit = BashOperator(
        task_id="checkpoint_audit",
        bash_command='ckptaudit audit --base="$BASE" --tuned="$TUNED" --audit-json=audit.json',
        env={"BASE": "{{ params.base }}", "TUNED": "{{ params.tuned }}"},
        append_env=True,
    )
